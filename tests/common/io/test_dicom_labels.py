"""Structures fill what their contours enclose; segments lie where their file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from common.data.labels import load_schema
from common.errors import MedpairError
from common.io.dicom_labels import LabelObject, filled, open_labels
from common.io.dicom_out import Study, write_study
from tests.common.io.dicom_samples import SERIES, write_structures

SHAPE = (9, 8, 6)


def square(low: float, high: float, z: float = 2.0) -> np.ndarray:
    """A closed ring around pixel middles, mm = voxels."""
    return np.array([[low, low, z], [high, low, z], [high, high, z], [low, high, z]])


def mask_of(rings: list[np.ndarray], folder: Path) -> np.ndarray:
    labels = open_labels(write_structures(folder / "s.dcm", {"a": rings}))
    ((_, mask),) = labels.masks([1], SHAPE, np.eye(4))
    return mask


def test_middles_are_counted() -> None:
    assert filled([square(0.5, 3.5)[:, :2]], (9, 8)).sum() == 9
    assert filled([square(1.0, 4.0)[:, :2]], (9, 8)).sum() == 9  # through middles: half of them
    assert filled([square(-5, 50)[:, :2]], (9, 8)).all()
    assert not filled([], (9, 8)).any()


def test_touching_contours_leave_no_gap_and_holes_their_size(tmp_path: Path) -> None:
    left = np.array([[1, 1, 2], [4, 1, 2], [4, 5, 2], [1, 5, 2.0]])
    right = left + np.array([3, 0, 0])
    both = mask_of([left, right], tmp_path)
    whole = mask_of([np.array([[1, 1, 2], [7, 1, 2], [7, 5, 2], [1, 5, 2.0]])], tmp_path)
    assert np.array_equal(both, whole)
    ring = mask_of([square(0.5, 6.5), square(2.5, 4.5)], tmp_path)
    assert ring.sum() == 36 - 4
    assert not ring[3:5, 3:5, 2].any()


def test_a_contour_listed_twice_is_one_and_near_planes_join(tmp_path: Path) -> None:
    once = mask_of([square(0.5, 3.5)], tmp_path)
    assert np.array_equal(mask_of([square(0.5, 3.5)] * 2, tmp_path), once)
    assert np.array_equal(mask_of([square(0.5, 3.5), square(0.5, 3.5, 2.25)], tmp_path), once)


def test_other_terms_and_short_contours(tmp_path: Path) -> None:
    path = write_structures(tmp_path / "s.dcm", {"a": [square(0.5, 3.5), square(0.5, 3.5)[:1]]})
    data = dcmread(path)
    data.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "CLOSEDPLANAR_XOR"
    data.save_as(path)
    ((_, mask),) = open_labels(path).masks([1], SHAPE, np.eye(4))
    assert mask.sum() == 9


def test_a_damaged_structure_set_is_one_line(tmp_path: Path) -> None:
    path = write_structures(tmp_path / "s.dcm", {"a": [square(1, 3)]})
    data = dcmread(path)
    del data.StructureSetROISequence[0].ROINumber
    data.save_as(path)
    with pytest.raises(MedpairError, match="its structures cannot be read"):
        open_labels(path)
    (tmp_path / "no.dcm").write_text("nothing")
    with pytest.raises(MedpairError, match="damaged"):
        open_labels(tmp_path / "no.dcm")
    assert SERIES in open_labels(write_structures(path, {"a": [square(1, 3)]})).series


def segmented(folder: Path) -> tuple[LabelObject, np.ndarray, np.ndarray]:
    """A SEG, and the mask and affine that it was made of (R, A, S)."""
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:7, 3:6, 1:5] = rng.integers(0, 2, (5, 3, 4))
    affine = np.diag([0.7421875, 0.7421875, 2.5, 1.0])
    affine[:3, 3] = [-100.12345, 33.98765, 12.5]
    study = Study("a", load_schema("lesion1"), "e", "Real scan.", False)
    write_study(folder, study, np.zeros(SHAPE, np.float32), mask, affine)
    return open_labels(folder / "segmentation.dcm"), mask == 1, affine


def found(labels: LabelObject, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    ((_, mask),) = labels.masks([1], shape, affine)
    return mask


def test_a_segment_lies_on_its_image_however_that_is_turned(tmp_path: Path) -> None:
    labels, mask, affine = segmented(tmp_path)
    assert np.array_equal(found(labels, SHAPE, affine), mask)
    flipped = affine @ np.diag([-1.0, 1, -1, 1])
    flipped[:3, 3] = (affine @ [SHAPE[0] - 1, 0, SHAPE[2] - 1, 1])[:3]
    assert np.array_equal(found(labels, SHAPE, flipped), mask[::-1, :, ::-1])
    turned = affine[:, [2, 0, 1, 3]]
    shape = (SHAPE[2], SHAPE[0], SHAPE[1])
    assert np.array_equal(found(labels, shape, turned), np.moveaxis(mask, 2, 0))


def test_rounded_headers_are_the_same_place(tmp_path: Path) -> None:
    labels, mask, affine = segmented(tmp_path)
    rounded = affine.copy()
    rounded[0, 0] = rounded[1, 1] = 0.7422
    rounded[:3, 3] = rounded[:3, 3].round(3)
    assert np.array_equal(found(labels, SHAPE, rounded), mask)


def test_a_part_of_the_image_is_enough(tmp_path: Path) -> None:
    labels, mask, affine = segmented(tmp_path)
    larger = affine.copy()
    larger[:3, 3] = (affine @ [-2, -1, -3, 1])[:3]
    image = found(labels, (SHAPE[0] + 4, SHAPE[1] + 2, SHAPE[2] + 5), larger)
    assert np.array_equal(image[2 : 2 + SHAPE[0], 1 : 1 + SHAPE[1], 3 : 3 + SHAPE[2]], mask)
    assert image.sum() == mask.sum()


@pytest.mark.parametrize("change", [(0.5, 0.0), (0.0, 0.1)])
def test_other_voxels_are_refused(change: tuple[float, float], tmp_path: Path) -> None:
    labels, _, affine = segmented(tmp_path)
    shift, stretch = change
    other = affine.copy()
    other[0, 0] *= 1 + stretch
    other[0, 3] += shift * affine[0, 0]
    with pytest.raises(MedpairError, match="voxels off those of the image"):
        found(labels, SHAPE, other)
