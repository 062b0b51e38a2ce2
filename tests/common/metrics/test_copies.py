"""Copies by a likeness that is given: who is called one, and against what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.metrics.copies import Likeness, Scans, find_copies

MADE = ["m0", "m1", "m2"]
TRAINING = Scans(["t0", "t1", "t2"], ["a", "b", "c"])
HELD_OUT = Scans(["h0", "h1"], ["d", "e"])
NAN = np.nan


def likeness() -> Likeness:
    """Pair m1 copies t2; persons reach 0.7 kept back and 0.6 in training."""
    return Likeness(
        made_training=np.array([[0.5, 0.69, NAN], [0.1, 0.2, 0.95], [0.3, 0.3, 0.1]]),
        made_held_out=np.array([[0.5, 0.4], [0.5, 0.4], [0.65, 0.2]]),
        held_out_training=np.array([[0.7, 0.1, 0.2], [0.5, 0.4, NAN]]),
        training_training=np.array([[NAN, 0.6, 0.2], [0.6, NAN, 0.1], [0.2, 0.1, NAN]]),
        held_out_held_out=np.array([[NAN, 0.4], [0.4, NAN]]),
    )


def found(changed: Likeness | None = None, held_out: Scans = HELD_OUT) -> dict[str, Any]:
    return find_copies(changed or likeness(), MADE, TRAINING, held_out)


def test_who_is_nearer_to_a_scan_than_persons_are_is_a_copy() -> None:
    report = found()
    assert report["threshold"] == pytest.approx(0.7)
    assert (report["n_copies"], report["n_mem"]) == (1, 1)
    assert (report["copies"], report["copied"]) == (["m1"], ["t2"])
    assert report["share"] == pytest.approx(1 / 3)
    assert report["volumes"]["m1"] == {
        "training": "t2",
        "likeness": 0.95,
        "held_out": "h0",
        "held_out_likeness": 0.5,
        "ratio": pytest.approx(0.1),
        "copy": True,
    }
    assert report["volumes"]["m0"]["copy"] is False


def test_two_copies_of_one_scan_are_one_memorised_scan() -> None:
    matrix = likeness().made_training.copy()
    matrix[0, 2] = 0.9
    report = found(replace(likeness(), made_training=matrix))
    assert (report["n_copies"], report["n_mem"]) == (2, 1)


def test_training_scans_raise_the_threshold_and_never_lower_it() -> None:
    matrix = likeness().training_training.copy()
    matrix[0, 1] = matrix[1, 0] = 0.96
    report = found(replace(likeness(), training_training=matrix))
    assert (report["threshold"], report["n_copies"]) == (pytest.approx(0.96), 0)
    report = found(replace(likeness(), training_training=np.where(matrix > 0, 0.01, NAN)))
    assert report["threshold"] == pytest.approx(0.7)


def test_few_scans_say_that_the_percentile_is_the_maximum() -> None:
    reference = found()["references"]["held_out"]
    assert (reference["n"], reference["persons"], reference["is_maximum"]) == (2, 2, True)
    assert reference["percentile"] == pytest.approx(0.7)
    assert found()["by_chance"] == pytest.approx(1 / 6)


def test_many_scans_leave_out_the_farthest_one_in_a_hundred() -> None:
    values = np.linspace(0, 1, 1001)
    many = Scans([f"h{i}" for i in range(1001)], [f"p{i}" for i in range(1001)])
    changed = replace(
        likeness(),
        held_out_training=np.tile(values[:, None], (1, 3)),
        held_out_held_out=np.full((1001, 1001), NAN),
        made_held_out=np.full((3, 1001), 0.1),
    )
    report = found(changed, many)
    assert report["threshold"] == pytest.approx(0.99)
    assert report["references"]["held_out"]["is_maximum"] is False
    assert report["by_chance"] == pytest.approx(0.01)


def test_the_ratio_compares_distances_and_stands_beside_that_of_people() -> None:
    ratio = found()["ratio"]
    assert ratio["median"] == pytest.approx(0.31 / 0.5)
    assert ratio["least"] == pytest.approx(0.1)
    assert ratio["fair"] == pytest.approx((0.3 / 0.6 + 0.5 / 0.6) / 2)


def test_membership_scores_each_scan_by_its_nearest_generated_volume() -> None:
    membership = found()["membership"]
    # training 0.5, 0.69, 0.95; kept back 0.65, 0.4
    assert membership["auc"] == pytest.approx(5 / 6)
    assert (membership["n_training"], membership["n_held_out"]) == (3, 2)


def test_without_kept_back_scans_the_training_scans_say_how_alike_people_are() -> None:
    none = np.zeros((3, 0))
    changed = replace(
        likeness(),
        made_held_out=none,
        held_out_training=none.T,
        held_out_held_out=np.zeros((0, 0)),
    )
    report = found(changed, Scans([], []))
    assert report["threshold"] == pytest.approx(0.6)
    assert report["n_copies"] == 2
    for value in (report["ratio"]["median"], report["membership"]["auc"]):
        assert str(value).startswith("not computed")
    assert report["volumes"]["m0"]["held_out"].startswith("not computed")


def test_one_person_alone_gives_no_threshold() -> None:
    changed = replace(
        likeness(),
        made_held_out=np.zeros((3, 0)),
        held_out_training=np.zeros((0, 3)),
        training_training=np.full((3, 3), NAN),
        held_out_held_out=np.zeros((0, 0)),
    )
    report = find_copies(changed, MADE, Scans(TRAINING.ids, ["a"] * 3), Scans([], []))
    for key in ("threshold", "n_copies", "n_mem", "share", "by_chance"):
        assert str(report[key]).startswith("not computed"), key
    assert report["copies"] == []
