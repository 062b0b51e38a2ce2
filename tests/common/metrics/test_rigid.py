"""Rigid alignment: motions that are known are found again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from common.data.phantom import make_phantom
from common.metrics.aligned import aligned_likeness, comparable
from common.metrics.rigid import align, best_shifts, correlation, detail, even

SIZE = (24, 20, 20)


@pytest.fixture(scope="module")
def brains() -> Tensor:
    """Two phantoms, shrunk so that nothing leaves the volume when it moves."""
    images = [make_phantom("brain4", (18, 16, 16), seed)[0] for seed in (1, 2)]
    return torch.from_numpy(np.stack([np.pad(image, ((3, 3), (2, 2), (2, 2))) for image in images]))


def turned(image: np.ndarray, degrees: float, shift: tuple[float, float, float]) -> np.ndarray:
    """Return a volume that was turned about its first axis and moved."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - matrix @ (centre + np.array(shift))
    return ndimage.affine_transform(image, matrix, offset, order=1).astype(np.float32)


def test_shifts_are_found(brains: Tensor) -> None:
    for wanted in ((2, 0, 0), (-2, 2, -2), (0, 0, 0)):
        moved = brains[:1].roll(wanted, dims=(1, 2, 3))
        found = best_shifts(moved, brains)
        assert found.shift[0, 0].tolist() == list(wanted)
        assert found.likeness[0, 0] == pytest.approx(1, abs=5e-3)
        assert found.likeness[0, 1] < 0.97


@pytest.mark.parametrize(("degrees", "shift"), [(0, (1, 0, -1)), (5, (0, 0, 0)), (-6, (1.5, 1, 2))])
def test_a_rigid_motion_is_undone(
    brains: Tensor, degrees: float, shift: tuple[float, float, float]
) -> None:
    moved = torch.from_numpy(turned(brains[0].numpy(), degrees, shift))[None]
    first = torch.from_numpy(best_shifts(moved, brains[:1]).shift[0])
    before = correlation(moved, brains[:1])
    found = align(moved, brains[:1], first, (4.0, 4.0, 4.0))
    assert correlation(moved, found) > 0.995 > before
    assert correlation(detail(moved, 0.05), detail(found, 0.05)) > 0.95


def test_the_spacing_is_that_of_the_motion() -> None:
    """A turn that is rigid in mm is no turn in voxels where these are not cubes."""
    image = make_phantom("brain4", (16, 32, 32), 3)[0]
    cubes = np.repeat(image, 2, axis=0)
    moved = turned(cubes.transpose(1, 0, 2), 10, (0, 0, 0)).transpose(1, 0, 2)[::2].copy()
    pair = torch.from_numpy(np.stack([moved, image]))
    none = torch.zeros(1, 3, dtype=torch.int64)
    right, wrong = (align(pair[:1], pair[1:], none, mm) for mm in ((2, 1, 1), (1, 1, 1)))
    assert correlation(pair[:1], right) > correlation(pair[:1], wrong) + 0.005


def test_alignment_never_makes_it_worse(brains: Tensor) -> None:
    noise = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(2, 3, dtype=torch.int64)
    for fixed in (brains.flip(0), noise, torch.zeros_like(noise)):
        found = align(fixed, brains, none, (1, 1, 1))
        assert (correlation(fixed, found) >= correlation(fixed, brains) - 1e-5).all()


def test_constant_volumes_have_no_likeness(brains: Tensor) -> None:
    flat = torch.full((1, *SIZE), 0.5)
    found = aligned_likeness(torch.cat([flat, flat * 0]), brains, (1, 1, 1))
    for values in found.values():
        np.testing.assert_allclose(values, 0, atol=0.05)


def test_odd_sizes_become_even() -> None:
    assert even(torch.ones(1, 5, 4, 7)).shape == (1, 6, 4, 8)
    assert even(torch.ones(1, 5, 4, 7)).sum() == 5 * 4 * 7


def test_mirror_images_are_found_only_when_looked_for(brains: Tensor) -> None:
    query = brains.flip(-1)
    found = aligned_likeness(query, brains, (1, 1, 1))
    assert np.diag(found["detail"]) == pytest.approx([1, 1], abs=1e-3)
    assert np.diag(aligned_likeness(query, brains, (1, 1, 1), mirror=False)["detail"]).max() < 0.9


def test_skipped_and_unlikely_pairs_are_nan(brains: Tensor) -> None:
    bank = torch.cat([brains, brains.roll(3, dims=1) ** 2, brains.flip(2)])
    same = np.zeros((2, 6), np.bool_)
    same[:, 0] = True
    found = aligned_likeness(brains, bank, (1, 1, 1), skip=same, rows=2)["plain"]
    assert np.isnan(found[:, 0]).all()
    assert np.isfinite(found).sum(axis=1).tolist() == [2, 2]
    both = aligned_likeness(brains, bank, (1, 1, 1), skip=same, rows=1, columns=1)["plain"]
    assert np.isfinite(both).any(axis=0).tolist() == [False, *[True] * 5]


def test_nothing_to_compare() -> None:
    nobody = torch.zeros(0, *SIZE)
    some = torch.ones(2, *SIZE)
    assert aligned_likeness(nobody, some, (1, 1, 1))["plain"].shape == (0, 2)
    assert aligned_likeness(some, nobody, (1, 1, 1))["plain"].shape == (2, 0)


def test_large_volumes_are_averaged_down() -> None:
    rng = np.random.default_rng(0)
    found = comparable([rng.random((130, 32, 40)).astype(np.float32) * 3])
    assert found.shape == (1, 64, 16, 20)
    assert float(found.max()) <= 1
