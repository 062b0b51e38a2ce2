"""Studies go onto a network's grid as `medpair prepare` puts them, and results come back."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.datasets import load_arrays
from common.data.phantom import make_phantom
from common.data.prepare import prepare
from common.data.studies import NetworkGrid
from common.data.views import from_dhw
from common.errors import MedpairError

Array = npt.NDArray[np.float64]
OBLIQUE = np.array(
    [[-1.9, 0.3, 0.0, 70.0], [0.3, 1.9, 0.1, -80.0], [0.0, -0.1, 2.0, -60.0], [0, 0, 0, 1.0]]
)
SIZE = (48, 40, 40)


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray]:
    """A phantom, its first axis from right to left, 2 mm voxels: image and mask."""
    image, label = make_phantom("brain4", (96, 80, 80), 3)
    return (
        np.ascontiguousarray(np.flip(from_dhw(image, "AP"), 0)) * np.float32(700),
        np.ascontiguousarray(np.flip(from_dhw(label, "AP"), 0)),
    )


def grid(schema: str = "brain4") -> NetworkGrid:
    return NetworkGrid(schema, (4.0, 4.0, 4.0), SIZE)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    shares = [
        2 * np.sum((a == k) & (b == k)) / max(1, np.sum(a == k) + np.sum(b == k)) for k in (1, 3)
    ]
    return float(min(shares))


def test_a_pair_is_what_prepare_makes_of_it(
    head: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    image, label = head
    for name, array in (("a_T1", image), ("a_labels", label)):
        nib.save(nib.Nifti1Image(array, OBLIQUE), tmp_path / f"{name}.nii.gz")
    prepare(
        tmp_path, tmp_path, "brain4", tmp_path / "set", spacing=4.0, size=SIZE, crop="nonzero",
        source="schema", holdout=0.0,
    )  # fmt: skip
    wanted = load_arrays(tmp_path / "set", None)
    found = grid().pair(image, label, OBLIQUE)
    assert found.image_DHW is not None
    np.testing.assert_allclose(found.image_DHW, wanted.images[0], atol=2e-3)  # stored as int16
    assert found.label_DHW is not None
    assert np.array_equal(found.label_DHW, wanted.labels[0])
    assert found.size == SIZE


def test_a_scan_is_placed_as_with_its_mask(head: tuple[np.ndarray, np.ndarray]) -> None:
    alone, both = grid().scan(head[0], OBLIQUE), grid().pair(*head, OBLIQUE)
    assert alone.label_DHW is None
    assert alone.place.grid == both.place.grid
    assert np.array_equal(alone.image_DHW, both.image_DHW)  # type: ignore[arg-type]


def test_masks_and_images_come_back_to_where_they_were(
    head: tuple[np.ndarray, np.ndarray],
) -> None:
    image, label = head
    study = grid().pair(image, label, OBLIQUE)
    assert study.label_DHW is not None
    mask = study.place.mask_back(study.label_DHW)
    assert mask.shape == label.shape
    assert mask.dtype == np.uint8
    assert dice(mask, label) > 0.8  # 4 mm voxels against 2 mm ones
    assert dice(np.roll(mask, 5, 0), label) < 0.7
    assert study.image_DHW is not None
    back = study.place.image_back(study.image_DHW)
    assert back.shape == image.shape
    assert np.corrcoef(back.ravel(), image.ravel())[0, 1] > 0.95
    assert abs(np.median(back[label == 3]) / np.median(image[label == 3]) - 1) < 0.1


@settings(max_examples=20, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    width=st.floats(0.7, 5.0),
)
def test_a_result_has_the_shape_of_its_study_however_that_lies(
    order: list[int], flips: tuple[bool, ...], width: float
) -> None:
    affine: Array = np.zeros((4, 4))
    for column, (row, flip) in enumerate(zip(order, flips, strict=True)):
        affine[row, column] = -width if flip else width
    affine[3, 3] = 1
    array = np.zeros((21, 17, 26), np.uint8)
    array[5:16, 4:13, 6:20] = 3
    study = NetworkGrid("brain4", (4.0, 4.0, 4.0)).mask(array, affine)
    assert study.label_DHW is not None
    back = study.place.mask_back(study.label_DHW)
    assert back.shape == array.shape
    here, there = (np.argwhere(mask == 3).mean(0) for mask in (array, back))
    assert np.abs(here - there).max() < 0.6  # voxels


def test_a_mask_gets_its_container_and_says_what_the_grid_cuts_off(
    head: tuple[np.ndarray, np.ndarray],
) -> None:
    label = np.where((head[1] == 5) | (head[1] == 2), 0, head[1])  # holes
    whole = grid().mask(label, OBLIQUE)
    assert whole.label_DHW is not None
    assert set(np.unique(whole.label_DHW)) >= {1, 3, 5}
    assert whole.outside == 0
    small = NetworkGrid("brain4", (4.0, 4.0, 4.0), (16, 16, 16)).mask(label, OBLIQUE)
    assert small.outside > 0


def test_hounsfield_units_hold_without_a_scan() -> None:
    label = np.zeros((30, 30, 30), np.uint8)
    label[8:20, 8:20, 8:20] = 1
    place = NetworkGrid("thorax7", (4.0, 4.0, 4.0), (16, 16, 16)).mask(label, np.eye(4) * 4).place
    back = place.image_back(np.full((16, 16, 16), 0.5, np.float32))
    lower, upper = place.lower, place.upper
    assert lower < -500 < upper
    assert abs(back[14, 14, 14] - (lower + upper) / 2) < 1
    assert back[0, 0, 0] == lower  # air, where the network's grid does not reach


def test_the_grid_alone_needs_no_contrast() -> None:
    study = grid().space(np.zeros((50, 60, 40)), np.diag([2.0, 2.0, 2.0, 1.0]))
    assert study.size == SIZE
    assert study.place.mask_back(np.full(SIZE, 3, np.uint8)).shape == (50, 60, 40)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((9, 9, 9), np.uint8), "empty mask"),
        (np.full((9, 9, 9), 9999, np.int16), r"ids \[9999\] fit no source"),
        (np.full((9, 9, 9), 1.5, np.float32), "no integers"),
    ],
)
def test_what_is_no_mask_is_refused(array: np.ndarray, says: str) -> None:
    with pytest.raises(MedpairError, match=says):
        grid().mask(array, np.eye(4))


def test_whose_ids_a_mask_holds_is_told_or_given() -> None:
    """SegTHOR's 1..4 are thorax7's too: the schema's own go first, unless the source is named."""
    label = np.ones((30, 30, 30), np.uint8)
    label[8:20, 8:20, 8:20] = 2
    spacing = (4.0, 4.0, 4.0)
    own = NetworkGrid("thorax7", spacing).mask(label, np.eye(4) * 4)
    named = NetworkGrid("thorax7", spacing, source="segthor").mask(label, np.eye(4) * 4)
    assert (own.source, named.source) == ("schema", "segthor")
    assert own.label_DHW is not None
    assert named.label_DHW is not None
    assert set(np.unique(own.label_DHW)) == {1, 2}  # lungs
    assert set(np.unique(named.label_DHW)) == {4, 5}  # esophagus and heart
    with pytest.raises(MedpairError, match="no source 'nobody'"):
        NetworkGrid("thorax7", spacing, source="nobody")


def test_the_space_of_a_study_says_what_it_leaves_out(
    head: tuple[np.ndarray, np.ndarray],
) -> None:
    small = NetworkGrid("brain4", (4.0, 4.0, 4.0), (16, 16, 16))
    assert small.space(head[0], OBLIQUE).outside == small.scan(head[0], OBLIQUE).outside > 0


def test_a_scan_without_contrast_is_refused() -> None:
    with pytest.raises(MedpairError, match="contrast"):
        grid().scan(np.zeros((9, 9, 9)), np.eye(4))
