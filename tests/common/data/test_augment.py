import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from common.data.augment import WarpRanges, draw_warp, warp_grid, warp_labels
from common.data.phantom import make_phantom

SIZE = (24, 20, 22)
STILL = WarpRanges(rotate=0, scale=0, shift=0, elastic=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def brain() -> tuple[torch.Tensor, torch.Tensor]:
    image, label = make_phantom("brain4", SIZE, 0)
    return torch.from_numpy(image), torch.from_numpy(label)


def grid(ranges: WarpRanges, seed: int = 0, slices: range = range(SIZE[0])) -> torch.Tensor:
    return warp_grid(draw_warp(ranges, generator(seed)), SIZE, slices)


def test_zero_ranges_leave_all_as_it_is() -> None:
    _, label = brain()
    assert torch.equal(warp_labels(label, grid(STILL), 6), label)


@pytest.mark.parametrize("seed", range(5))
def test_default_ranges_keep_ids_and_volumes(seed: int) -> None:
    _, label = brain()
    moved = warp_labels(label, grid(WarpRanges(), seed), 6)
    assert moved.dtype == torch.uint8
    assert moved.shape == label.shape
    assert not torch.equal(moved, label)
    assert set(moved.unique().tolist()) <= set(label.unique().tolist())
    # +-6 % along each axis is at most 1.06^3 in volume, drawn independently
    assert int((moved > 0).sum()) == pytest.approx(int((label > 0).sum()), rel=0.2)


def test_rotations_and_bends_keep_volumes_within_a_few_percent() -> None:
    _, label = brain()
    ranges = WarpRanges(rotate=5, scale=0, shift=1, elastic=0.5)
    whole = int((label > 0).sum())
    ratios = [int((warp_labels(label, grid(ranges, s), 6) > 0).sum()) / whole for s in range(6)]
    assert sum(ratios) / 6 == pytest.approx(1, abs=0.03)
    assert max(abs(ratio - 1) for ratio in ratios) < 0.08


def test_labels_never_mix_to_ids_in_between() -> None:
    """A 0/5 border has no 1..4 on it, however it is turned."""
    label = torch.zeros(SIZE, dtype=torch.uint8)
    label[6:18, 5:15, 6:16] = 5
    for seed in range(5):
        moved = warp_labels(label, grid(WarpRanges(rotate=20, elastic=2), seed), 6)
        assert set(moved.unique().tolist()) == {0, 5}


def test_outside_the_volume_lies_the_nearest_label() -> None:
    label = torch.full(SIZE, 3, dtype=torch.uint8)
    label[:, : SIZE[1] // 2] = 1
    warp = draw_warp(WarpRanges(rotate=0, scale=0, shift=1000, elastic=0), generator(1))
    away = warp_grid(warp, SIZE, range(SIZE[0]))
    nearest = 1 if warp.shift[1] < 0 else 3
    assert (warp_labels(label, away, 6) == nearest).all()


def test_a_shift_moves_by_voxels() -> None:
    warp = draw_warp(WarpRanges(rotate=0, scale=0, shift=3, elastic=0), generator())
    half = (torch.tensor(SIZE) - 1) / 2
    moved = (warp_grid(warp, SIZE, range(SIZE[0])) - grid(STILL)).flip(-1) * half
    torch.testing.assert_close(moved, warp.shift.expand_as(moved), atol=1e-4, rtol=0)


def test_a_rotation_turns_about_the_centre_by_its_angle() -> None:
    warp = draw_warp(WarpRanges(rotate=30, scale=0, shift=0, elastic=0), generator(3))
    torch.testing.assert_close(warp.matrix @ warp.matrix.T, torch.eye(3), atol=1e-5, rtol=0)
    assert float(torch.linalg.det(warp.matrix)) == pytest.approx(1, abs=1e-5)
    angle = math.degrees(math.acos((float(warp.matrix.trace()) - 1) / 2))
    assert 0 < angle < 3 * 30
    where = warp_grid(warp, (21, 21, 21), range(21))
    torch.testing.assert_close(where[10, 10, 10], torch.zeros(3), atol=1e-6, rtol=0)


def test_some_slices_are_warped_as_in_the_whole_volume() -> None:
    _, label = brain()
    whole = warp_labels(label, grid(WarpRanges()), 6)
    some = warp_labels(label, grid(WarpRanges(), slices=range(7, 13)), 6)
    assert torch.equal(some, whole[7:13])


def test_a_draw_depends_on_its_generator_alone() -> None:
    assert torch.equal(grid(WarpRanges(), 2), grid(WarpRanges(), 2))
    assert not torch.equal(grid(WarpRanges(), 2), grid(WarpRanges(), 3))


@pytest.mark.parametrize("seed", range(4))
def test_labels_are_those_of_scipys_cubic_splines(seed: int) -> None:
    _, label = brain()
    places = grid(WarpRanges(rotate=12, scale=0.15, shift=3, elastic=1.5), seed)
    half = (np.array(SIZE) - 1) / 2
    voxels = ((places.numpy()[..., ::-1] + 1) * half).transpose(3, 0, 1, 2)
    scores = np.zeros((6, *SIZE), np.float32)
    for k in range(6):
        one = (label.numpy() == k).astype(np.float32)
        map_coordinates(one, voxels, output=scores[k], order=3, mode="nearest")
    expected = scores.argmax(axis=0)
    assert len(np.unique(expected)) >= 5
    np.testing.assert_array_equal(warp_labels(label, places, 6).numpy(), expected)
