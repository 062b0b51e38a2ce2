"""Body areas are counts, and a body seen without a mask is the bright part, filled."""

from __future__ import annotations

import numpy as np

from common.data.bodies import body_areas, body_of_image, overlap, shown_slices
from common.data.labels import load_schema
from common.data.phantom import make_phantom


def staircase() -> np.ndarray:
    """Slice z shows z rows of 4 voxels."""
    label = np.zeros((6, 5, 4), np.uint8)
    for z in range(6):
        label[z, :z] = 1 + z % 2
    return label


def test_areas_count_all_labels() -> None:
    assert body_areas(staircase()).tolist() == [0, 4, 8, 12, 16, 20]


def test_slices_at_the_rim_are_left_out() -> None:
    assert shown_slices(staircase(), 0.5).tolist() == [3, 4, 5]
    assert shown_slices(staircase(), 0.01).tolist() == [1, 2, 3, 4, 5]
    assert shown_slices(np.zeros((3, 4, 4), np.uint8), 0.5).tolist() == []


def test_overlap_of_shifted_squares() -> None:
    a, b = np.zeros((2, 10, 10), bool)
    a[2:6, 2:6], b[2:6, 4:8] = True, True
    assert overlap(a, b) == 0.5
    assert overlap(a, a) == 1
    assert overlap(a & ~a, b & ~b) == 0


def test_the_body_of_an_image_is_that_of_its_mask() -> None:
    for schema in ("brain4", "abdomen4"):
        image, label = make_phantom(load_schema(schema), (32, 48, 48), 1)
        middle = 16
        found = body_of_image(image[middle])
        assert overlap(found, label[middle] > 0) > 0.95
