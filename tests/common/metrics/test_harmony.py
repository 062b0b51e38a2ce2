"""Harmony: equal volumes have no spread, known shifts have a known one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.labels import load_schema
from common.errors import MedpairError
from common.metrics.harmony import harmony, histogram_distance, median_spread

SCHEMA = load_schema("brain4")
LABEL = np.zeros((8, 8, 8), np.uint8)
LABEL[2:6, 2:6, 2:4], LABEL[2:6, 2:6, 4:6] = 1, 3
IMAGE = np.random.default_rng(0).uniform(0.2, 0.6, LABEL.shape).astype(np.float32)


def test_an_identical_set_has_no_spread() -> None:
    found = harmony([IMAGE] * 3, [LABEL] * 3, SCHEMA)
    assert found["histogram_distance"] == 0
    assert found["median_spread"]["cortex"] == found["median_spread"]["white_matter"] == 0
    assert "fewer than 2" in found["median_spread"]["csf"]


@given(st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=5))
def test_known_shifts_give_known_numbers(shifts: list[float]) -> None:
    images = [(IMAGE + shift).astype(np.float32) for shift in shifts]
    labels = [LABEL] * len(shifts)
    spread = median_spread(images, labels, SCHEMA)
    np.testing.assert_allclose(spread["cortex"], np.std(shifts, ddof=1), atol=1e-6)
    pairs = [abs(a - b) for i, a in enumerate(shifts) for b in shifts[:i]]
    np.testing.assert_allclose(histogram_distance(images, labels), np.mean(pairs), atol=1e-6)


def test_only_the_foreground_counts() -> None:
    changed = np.where(LABEL == 0, 1, IMAGE).astype(np.float32)
    assert histogram_distance([IMAGE, changed], [LABEL] * 2) == 0


def test_a_shift_of_one_label_moves_its_own_median_alone() -> None:
    changed = np.where(LABEL == 3, IMAGE + np.float32(0.1), IMAGE)
    spread = median_spread([IMAGE, changed], [LABEL] * 2, SCHEMA)
    assert spread["cortex"] == 0
    assert spread["white_matter"] == pytest.approx(0.1 / np.sqrt(2), abs=1e-6)


def test_one_volume_has_a_reason_and_wrong_sets_an_error() -> None:
    assert str(histogram_distance([IMAGE], [LABEL])).startswith("not computed")
    with pytest.raises(MedpairError, match="0 with 0 masks"):
        harmony([], [], SCHEMA)
    with pytest.raises(MedpairError, match="on one grid"):
        histogram_distance([IMAGE, IMAGE[1:]], [LABEL] * 2)
    with pytest.raises(MedpairError, match="empty mask"):
        histogram_distance([IMAGE, IMAGE], [LABEL, LABEL * 0])
