"""Membership: known scores have known AUCs, and persons are what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.membership import membership_auc


def names(count: int, prefix: str) -> list[str]:
    return [f"{prefix}{n}" for n in range(count)]


def test_separable_scores() -> None:
    found = membership_auc(np.array([3.0, 4, 5]), np.array([1.0, 2]), names(3, "a"), names(2, "b"))
    assert (found["auc"], found["low"], found["high"]) == (1, 1, 1)
    found = membership_auc(np.array([0.0, 0]), np.array([1.0, 2]), names(2, "a"), names(2, "b"))
    assert found["auc"] == 0


def test_ties_count_half() -> None:
    found = membership_auc(np.ones(4), np.ones(3), names(4, "a"), names(3, "b"))
    assert (found["auc"], found["low"], found["high"]) == (0.5, 0.5, 0.5)


def test_the_interval_holds_the_true_value_mostly() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(100):
        scores = rng.normal(size=20), rng.normal(size=15)
        found = membership_auc(*scores, names(20, "a"), names(15, "b"), repeats=300, seed=seed)
        held += float(found["low"]) <= 0.5 <= float(found["high"])
    assert held >= 88


def test_scans_of_one_person_are_not_two_persons() -> None:
    """Each scan given twice: the interval stays where it was, and N says what it rests on."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, 10), rng.normal(size=6)
    once = membership_auc(a, b, names(10, "a"), names(6, "b"))
    twice = membership_auc(a.repeat(2), b.repeat(2), np.repeat(names(10, "a"), 2).tolist(),
                           np.repeat(names(6, "b"), 2).tolist())  # fmt: skip
    for key in ("auc", "low", "high", "n_persons"):
        assert twice[key] == pytest.approx(once[key])
    assert (once["n_held_out"], twice["n_held_out"]) == (6, 12)


def test_without_scans_or_persons_there_are_reasons() -> None:
    empty = membership_auc(np.ones(2), np.zeros(0), ["a", "b"], [])
    assert str(empty["auc"]).startswith("not computed")
    alone = membership_auc(np.ones(2), np.zeros(2), ["a", "b"], ["c", "c"])
    assert alone["auc"] == 1
    assert "at least 2 persons" in str(alone["low"])
    with pytest.raises(MedpairError, match="persons: 1 for 2"):
        membership_auc(np.ones(2), np.zeros(0), ["a"], [])
    with pytest.raises(MedpairError, match="level"):
        membership_auc(np.ones(1), np.ones(1), ["a"], ["b"], level=1.0)
