"""Novelty: a planted copy is found, also mirrored, and different people are the reference."""

import numpy as np
import pytest
from monai.metrics import DiceMetric
from torch import from_numpy, stack

from common.errors import MedpairError
from common.metrics.memorization import (
    different_person_dice,
    nearest_training,
    novelty,
    pairwise_dice,
)


def test_dice_of_overlapping_boxes_is_the_formula() -> None:
    a, b = np.zeros((2, 10, 4, 4), np.uint8)
    a[0:6], b[4:8] = 1, 1
    assert pairwise_dice([a], [b], [1])[0, 0] == pytest.approx(2 * 2 / (6 + 4))


def test_it_agrees_with_monai(schema) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (3, 5, 6, 7), np.uint8), rng.integers(0, 4, (4, 5, 6, 7), np.uint8)
    found = pairwise_dice(list(a), list(b), [1, 2])

    def hot(x):
        return stack([from_numpy(x) == k for k in (1, 2)])[None].float()

    for i in range(3):
        for j in range(4):
            metric = DiceMetric(include_background=True)
            assert found[i, j] == pytest.approx(float(metric(hot(a[i]), hot(b[j])).mean()))


def test_large_volumes_are_counted_exactly() -> None:
    """More voxels than one matrix product takes, and than float32 counts one by one."""
    a = np.ones((1, 1, (1 << 24) + 3), np.uint8)
    b = a.copy()
    b[0, 0, :3] = 0
    n = 1 << 24
    assert pairwise_dice([a], [b], [1])[0, 0] == 2 * n / (2 * n + 3)


def test_a_label_in_one_map_only_counts_zero_and_in_none_not_at_all() -> None:
    a, b = np.zeros((2, 4, 4, 4), np.uint8)
    a[0], b[0] = 1, 1
    assert pairwise_dice([a], [b], [1, 2])[0, 0] == 1
    a[3] = 2
    assert pairwise_dice([a], [b], [1, 2])[0, 0] == 0.5
    assert np.isnan(pairwise_dice([a], [b], [3])[0, 0])


def test_a_planted_copy_is_found_among_many(schema, make_people) -> None:
    training = make_people(12, 1)
    copy = training[7].copy()
    copy[10, 10, 10] = 3  # the container does not count
    dice, index = nearest_training([*make_people(3, 2), copy], training, schema)
    assert dice[3] == 1
    np.testing.assert_array_equal(training[index[3]], training[7])


def test_a_mirrored_copy_is_found_when_asked_for(schema, make_people) -> None:
    training = make_people(5, 1)
    # left/right: the last axis turns round and the labels of the pair change places
    mirrored = schema.flip_lut[training[2][:, :, ::-1]]
    assert nearest_training([mirrored], training, schema)[0][0] < 0.9
    assert nearest_training([mirrored], training, schema, mirror=True)[0][0] == 1


def test_the_reference_leaves_out_other_scans_of_the_same_person(schema, make_map) -> None:
    real = [make_map(dark=4), make_map(dark=4), make_map(dark=6)]
    twins = different_person_dice(real, ["a", "b", "c"], schema)
    assert twins[0] == twins[1] == 1
    other = different_person_dice(real, ["a", "a", "c"], schema)
    assert (other < 1).all()
    assert other[2] == pytest.approx(max(other[0], other[1]))


def test_the_report_judges_by_the_reference(schema, make_map, make_people) -> None:
    training = [make_map(dark=3), make_map(dark=5, shift=1), make_map(dark=6, shift=2)]
    fresh, copied = make_map(dark=4, bright=5, shift=5), training[1]
    report = novelty([fresh, copied], training, ["a", "b", "c"], schema)
    assert report["nearest"][1] == {"dice": 1.0, "training": 1}
    assert report["max"] == 1
    assert report["reference"] == np.nanmax(
        different_person_dice(training, ["a", "b", "c"], schema)
    )
    assert report["share_above"] == 0.5
    assert report["mean"] == pytest.approx((1 + report["nearest"][0]["dice"]) / 2)


def test_held_back_masks_make_the_reference_but_are_no_training_masks(schema, make_map) -> None:
    """Two alike persons were held back: their likeness is allowed, a copy of them is no copy."""
    real = [make_map(dark=6, shift=2), make_map(dark=4), make_map(dark=4), make_map(dark=3)]
    known = [True, False, False, True]
    report = novelty([make_map(dark=4)], real, list("abcd"), schema, trained_on=known)
    assert report["reference"] == 1
    assert report["nearest"][0]["training"] == 3
    assert report["max"] < 1
    assert report["n_training"] == 2
    assert novelty([real[1]], real, list("abcd"), schema)["max"] == 1


def test_without_other_people_there_is_no_reference(schema, make_people) -> None:
    report = novelty(make_people(1), make_people(2, 1), ["a", "a"], schema)
    assert report["reference"] == "not computed: needs real masks of at least 2 persons"
    assert report["share_above"] == report["reference"]


def test_empty_masks_have_no_dice(schema) -> None:
    empty = [np.zeros((3, 3, 3), np.uint8)]
    report = novelty(empty, empty * 2, ["a", "b"], schema)
    assert report["max"] == report["nearest"][0]["dice"]
    assert report["max"].startswith("not computed: ")


def test_grids_and_persons_must_match(schema, make_people) -> None:
    with pytest.raises(MedpairError, match="one shape wanted"):
        nearest_training([np.zeros((2, 2, 2), np.uint8)], make_people(1), schema)
    with pytest.raises(MedpairError, match="0 and 1 maps"):
        nearest_training([], make_people(1), schema)
    with pytest.raises(MedpairError, match="0 of 2 true for 2 real masks"):
        novelty(make_people(1), make_people(2), ["a", "b"], schema, trained_on=[False, False])
    with pytest.raises(MedpairError, match="persons: 1 for 2 real masks"):
        different_person_dice(make_people(2), ["a"], schema)
