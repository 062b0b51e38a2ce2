"""Precision and recall: sets that are equal, moved or lack a mode; slices of one person."""

import numpy as np
import pytest

from common.metrics.manifolds import covered, squared_radii


def own(count: int) -> list[str]:
    return [str(n) for n in range(count)]


def both(made: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Precision and recall of samples that are all of different persons."""
    values = covered(made, real, own(len(real))), covered(real, made, own(len(made)))
    assert not any(isinstance(value, str) for value in values)
    return float(values[0]), float(values[1])


def test_radii_reach_the_kth_sample_of_another_person() -> None:
    x = np.array([[0.0], [1.0], [3.0], [10.0]])
    np.testing.assert_allclose(squared_radii(x, own(4), 1), [1, 1, 4, 49])
    np.testing.assert_allclose(squared_radii(x, own(4), 2), [9, 4, 9, 81])
    np.testing.assert_allclose(squared_radii(x, ["a", "a", "b", "b"], 1), [9, 4, 4, 81])


def test_equal_sets_cover_each_other_wholly() -> None:
    x = np.random.default_rng(0).normal(size=(50, 300)) + 100
    assert both(x, x) == (1, 1)
    assert both(x, x[::-1]) == (1, 1)
    constant = np.ones((6, 4))
    assert both(constant, constant) == (1, 1)


def test_sets_of_one_distribution_cover_each_other_mostly() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 200, 2))
    assert min(both(a, b)) > 0.85


def test_moved_sets_do_not_meet() -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 60, 5))
    assert both(a + 50, b) == (0, 0)


def test_a_dropped_mode_costs_recall_and_a_wrong_one_precision() -> None:
    rng = np.random.default_rng(3)
    left, right, more = (rng.normal(size=(80, 2)) + shift for shift in (0, 40, 0))
    two = np.concatenate([left, right])
    precision, recall = both(more, two)
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.06)
    precision, recall = both(two, more)
    assert recall > 0.9
    assert precision == pytest.approx(0.5, abs=0.06)


def test_slices_of_one_person_do_not_shrink_the_manifold() -> None:
    """Neighbouring slices lie a hair apart: without groups their balls hold nobody else."""
    rng = np.random.default_rng(4)
    real, made = (
        np.repeat(rng.normal(size=(30, 3)), 6, axis=0) + 1e-4 * rng.normal(size=(180, 3))
        for _ in range(2)
    )
    persons = [f"p{n // 6}" for n in range(180)]
    assert covered(made, real, own(180)) < 0.05
    assert covered(made, real, persons) > 0.4


def test_too_few_persons_are_said() -> None:
    x = np.zeros((4, 2))
    assert covered(x, x[:3], own(3)) == (
        "not computed: N=3 samples of 3 persons; k=3 samples of other persons wanted"
    )
    assert "N=4 samples of 1 persons" in str(covered(x, x, ["p"] * 4))
    assert covered(x[:0], x, own(4)) == "not computed: N=0 samples"
