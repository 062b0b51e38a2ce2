import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes

from common.data.geometry import (
    Grid,
    axis_matrix,
    bounding_box,
    from_ras,
    plan_grid,
    resample_image,
    resample_labels,
    same_place,
    to_ras,
)
from common.errors import MedpairError
from tests.common.data.scans import ORIENTATIONS, oriented


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_every_voxel_keeps_its_place(
    order: tuple[int, ...], flips: tuple[int, ...], tilt: float
) -> None:
    affine = oriented(order, flips, tilt)
    array = np.arange(24).reshape(2, 3, 4)
    ras, ras_affine = to_ras(array, affine)
    assert aff2axcodes(ras_affine) == ("R", "A", "S")
    for value in (0, 5, 23):
        before = affine @ [*np.argwhere(array == value)[0], 1]
        after = ras_affine @ [*np.argwhere(ras == value)[0], 1]
        np.testing.assert_allclose(before, after, atol=1e-9)
    np.testing.assert_array_equal(from_ras(ras, affine), array)


@settings(max_examples=60, deadline=None)
@given(
    n_in=st.integers(2, 40),
    n_out=st.integers(1, 40),
    scale=st.floats(0.2, 6.0),
    offset=st.floats(-20, 20),
)
def test_weights_are_shares(n_in: int, n_out: int, scale: float, offset: float) -> None:
    matrix = axis_matrix(n_in, n_out, scale, offset)
    position = offset + scale * np.arange(n_out)
    inside = (position > -0.5) & (position < n_in - 0.5)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1)[inside], 1, atol=1e-5)
    outside = (position < -0.51) | (position > n_in - 0.49)
    np.testing.assert_array_equal(matrix[outside], 0)


def test_a_ramp_stays_a_ramp() -> None:
    x = np.arange(60, dtype=np.float32)
    for scale in (0.5, 2.0, 3.3):
        n = int(60 / scale)
        out = axis_matrix(60, n, scale, (scale - 1) / 2) @ x
        inner = slice(int(12 / scale) + 1, n - int(12 / scale) - 1)
        want = (scale - 1) / 2 + scale * np.arange(n)
        np.testing.assert_allclose(out[inner], want[inner], atol=1e-3)


def test_fine_stripes_do_not_alias() -> None:
    stripes = np.tile([0.0, 1.0], 48).astype(np.float32)
    out = axis_matrix(96, 24, 4.0, 1.5) @ stripes
    np.testing.assert_allclose(out[3:-3], 0.5, atol=0.02)


def test_without_a_change_of_spacing_voxels_are_copied() -> None:
    array = np.random.default_rng(0).normal(size=(7, 8, 9)).astype(np.float32)
    grid = plan_grid((7, 8, 9), (1.0, 2.0, 3.0), size=(10, 5, 9))
    out = resample_image(array, grid)
    assert out.shape == (10, 5, 9)
    back = resample_image(out, grid.inverse())
    kept = back != 0
    np.testing.assert_array_equal(back[kept], array[kept])
    assert kept.sum() == 7 * 5 * 9
    np.testing.assert_allclose(grid.affine(np.eye(4))[:3, 3], grid.offset)


def test_the_box_comes_to_the_middle() -> None:
    array = np.zeros((20, 20, 20), np.uint8)
    array[2:6, 10:14, 14:18] = 1
    box = bounding_box(array > 0)
    assert box == ((2, 6), (10, 14), (14, 18))
    out = resample_labels(array, plan_grid((20, 20, 20), (1, 1, 1), size=(8, 8, 8), box=box), 2)
    assert bounding_box(out > 0) == ((2, 6), (2, 6), (2, 6))
    assert plan_grid((20, 20, 20), (1, 1, 1), box=box).shape_out == (4, 4, 4)
    assert bounding_box(np.zeros((3, 4, 5), bool)) == ((0, 3), (0, 4), (0, 5))


def test_resampling_keeps_world_positions() -> None:
    """A blob's centre of mass in mm is the same before and after, on an oblique grid."""
    affine = to_ras(np.zeros((40, 30, 20)), oriented((0, 1, 2), (1, 1, 1), 0.3))[1]
    index = np.stack(np.meshgrid(*map(np.arange, (40, 30, 20)), indexing="ij"), axis=-1)
    blob = np.exp(-0.5 * (((index - [22, 12, 9]) / [5, 3, 2]) ** 2).sum(-1)).astype(np.float32)
    grid = plan_grid(blob.shape, (1.0, 2.0, 3.0), spacing=(2.5, 2.5, 2.5))
    out = resample_image(blob, grid)

    def centre(image: np.ndarray, frame: np.ndarray) -> np.ndarray:
        places = np.argwhere(image > -1)
        return frame[:3, :3] @ np.average(places, axis=0, weights=image.ravel()) + frame[:3, 3]

    np.testing.assert_allclose(centre(out, grid.affine(affine)), centre(blob, affine), atol=0.05)
    np.testing.assert_allclose(np.linalg.norm(grid.affine(affine)[:3, :3], axis=0), 2.5)


def test_labels_keep_their_share() -> None:
    """Halving the resolution keeps each label's volume in mm3 within a few per cent."""
    x, y, z = np.meshgrid(*[np.arange(48)] * 3, indexing="ij")
    r = np.sqrt((x - 23.3) ** 2 + (y - 22.9) ** 2 + (z - 24.1) ** 2)
    label = np.select([r < 9, r < 16, r < 21], [1, 2, 3], 0).astype(np.uint8)
    out = resample_labels(label, plan_grid(label.shape, (1, 1, 1), spacing=(2, 2, 2)), 4)
    for identity in (1, 2, 3):
        assert (out == identity).sum() * 8 == pytest.approx((label == identity).sum(), rel=0.08)


def test_labels_never_mix() -> None:
    """Between 1 and 3 there is no 2, as interpolated ids would give."""
    label = np.ones((12, 12, 12), np.uint8)
    label[6:] = 3
    out = resample_labels(label, plan_grid(label.shape, (1, 1, 1), spacing=(0.7, 1.9, 1.3)), 4)
    assert set(np.unique(out)) == {1, 3}


def test_ties_do_not_depend_on_the_order_of_sums() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[:2], label[2:] = 2, 1
    grid = Grid((4, 4, 4), (3, 4, 4), (1.0, 1.0, 1.0), (0.5, 0.0, 0.0))
    np.testing.assert_array_equal(resample_labels(label, grid, 3)[:, 0, 0], [2, 1, 1])


def test_same_place() -> None:
    affine = oriented((0, 1, 2), (1, 1, 1), 0.2)
    shifted, turned = affine.copy(), oriented((0, 1, 2), (1, 1, 1), 0.21)
    shifted[0, 3] += 0.04
    assert same_place((50, 50, 50), affine, shifted)
    shifted[0, 3] += 0.1
    assert not same_place((50, 50, 50), affine, shifted)
    assert not same_place((50, 50, 50), affine, turned)


def test_a_grid_is_for_one_shape() -> None:
    grid = plan_grid((4, 4, 4), (1, 1, 1))
    with pytest.raises(MedpairError, match=r"wanted \(4, 4, 4\)"):
        resample_image(np.zeros((4, 4, 5)), grid)
    with pytest.raises(MedpairError, match="shape"):
        resample_labels(np.zeros((4, 4, 5), np.uint8), grid, 2)
