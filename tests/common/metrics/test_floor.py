"""Splits by person, and ratios to the floor."""

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.floor import (
    against_floor,
    check_persons,
    person_splits,
    ratio,
    values_against_floor,
    without_floor,
)

PERSONS = ["a", "a", "b", "c", "d", "d", "e"]


def test_no_person_stands_in_both_halves_and_all_parts_have_one_size() -> None:
    splits = person_splits(4, PERSONS, 30, 0)
    sizes = {len(part) for split in splits for part in split}
    assert len(splits) == 30
    assert len(sizes) == 1
    for made, first, second in splits:
        assert not {PERSONS[i] for i in first} & {PERSONS[i] for i in second}
        assert set(made) <= set(range(4))
        assert len(set(made)) == len(made)


def test_the_size_is_that_of_the_smallest_part() -> None:
    assert {len(g) for g, _, _ in person_splits(1, PERSONS, 5, 0)} == {1}
    assert person_splits(5, ["p", "p"], 5, 0) == []


def test_images_of_real_masks_are_compared_with_other_persons_only() -> None:
    splits = person_splits(7, PERSONS, 30, 1, generated_persons=PERSONS)
    for made, first, second in splits:
        assert {PERSONS[i] for i in made} <= set(PERSONS) - {PERSONS[i] for i in second}
        assert len(made) == len(first) == len(second) >= 2


def test_splits_that_leave_nothing_generated_are_left_out() -> None:
    splits = person_splits(1, PERSONS, 40, 0, generated_persons=["c"])
    assert 0 < len(splits) < 40
    assert all(list(made) == [0] and 3 not in second for made, _, second in splits)


def test_images_of_persons_outside_the_real_set_meet_everybody() -> None:
    splits = person_splits(3, PERSONS, 10, 0, generated_persons=["x", "y", "z"])
    assert len(splits) == 10
    assert {i for made, _, _ in splits for i in made} == {0, 1, 2}


def test_equal_seeds_draw_equal_splits() -> None:
    a, b, c = (np.array(person_splits(9, PERSONS, 4, seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert a.shape != c.shape or (a != c).any()


def test_means_percentile_and_ratio_are_those_of_the_splits() -> None:
    triples = [(float(n + 6), float(n), 0.0) for n in range(1, 5)]
    found = against_floor(lambda a, b: abs(a - b), triples, "nothing there")
    assert found == pytest.approx(
        {"distance": 8.5, "floor": 2.5, "floor_p95": 3.85, "ratio": 8.5 / 2.5}
    )


def test_reasons_are_left_out_of_the_means_and_stand_where_no_number_is() -> None:
    def distance(a: float, b: float) -> float | str:
        return "not computed: seven" if a == 7 else a - b

    found = against_floor(distance, [(7.0, 1.0, 0.0), (3.0, 1.0, 0.0)], "nothing")
    assert found["distance"] == 3
    found = against_floor(distance, [(7.0, 1.0, 0.0)], "nothing")
    assert found["distance"] == found["ratio"] == "not computed: nothing"
    assert found["floor"] == 1


def test_values_are_compared_by_what_must_be_moved() -> None:
    real, made = np.array([1.0, 3.0, 2.0, np.nan]), np.array([7.0, 5.0])
    split = (np.array([0, 1]), np.array([0, 1]), np.array([2, 3]))
    found = values_against_floor(made, real, [split], "nothing")
    assert (found["distance"], found["floor"], found["ratio"]) == (4, 1, 4)
    alone = values_against_floor(made, real, [], "nothing")
    assert alone["distance"] == pytest.approx(4)
    assert "at least 2 persons" in alone["ratio"]
    empty = values_against_floor(made * np.nan, real, [split], "nothing")
    assert empty["distance"] == empty["ratio"] == "not computed: nothing"


def test_a_ratio_needs_a_floor_above_zero() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(3.0, 0.0) == "not computed: the floor is 0: real items cannot be told apart"
    assert "-0.001" in ratio(3.0, -0.001)
    assert ratio("not computed: x", 0.0) == "not computed: x"
    assert without_floor(2.0)["distance"] == 2.0
    assert "at least 2 persons" in without_floor(2.0)["ratio"]


def test_every_real_item_needs_its_person() -> None:
    check_persons(["a", "b"], 2, "images")
    with pytest.raises(MedpairError, match=r"persons: 1 for 2 real images.*a person per image"):
        check_persons(["a"], 2, "images")
