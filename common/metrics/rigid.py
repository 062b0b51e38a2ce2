"""Rigid alignment of volumes, batched: shifts by Fourier transforms, then Gauss-Newton steps.

Copies may be moved by a few voxels or turned a little; two persons cannot be made alike so. The
search over all pairs is coarse (shifts at half resolution); the pairs that it finds are refined.

Q, B volumes of two sets, P pairs, D, H, W volume size, N voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.layers import GaussianFilter
from torch import Tensor
from torch.nn import functional as F

COARSE_SMOOTH = 0.1
"""Standard deviation of what the coarse search takes away, in shorter sides."""
REACH = 0.25
"""Largest shift that the coarse search tries, in sides."""
STEPS = (8, 2)
"""Gauss-Newton steps at half and at full resolution."""
_CHUNK = 16
_DAMPING = 1e-3


@dataclass(frozen=True)
class Shifts:
    """Best shift of each pair: ``likeness`` (Q, B), ``shift`` (Q, B, 3) in voxels of D, H, W."""

    likeness: npt.NDArray[np.float32]
    shift: npt.NDArray[np.int64]


def detail(image_NDHW: Tensor, smooth: float) -> Tensor:
    """Return images without their smooth part.

    Args:
        image_NDHW: float32.
        smooth: standard deviation of the Gaussian that is taken away, in shorter sides.
    """
    sigma = smooth * min(image_NDHW.shape[1:])
    smooth_NDHW: Tensor = GaussianFilter(3, sigma, truncated=3.0)(image_NDHW[:, None])[:, 0]
    return image_NDHW - smooth_NDHW


def correlation(a_PDHW: Tensor, b_PDHW: Tensor) -> Tensor:
    """Return the correlation coefficient (P,) of volumes; 0 where one is constant."""
    return (_unit(a_PDHW) * _unit(b_PDHW)).sum(dim=1)


def half(image_NDHW: Tensor) -> Tensor:
    """Return images averaged over cubes of 2 x 2 x 2 voxels; sizes must be even."""
    return F.avg_pool3d(image_NDHW[:, None], 2)[:, 0]


def even(image_NDHW: Tensor) -> Tensor:
    """Return images padded with zeros at the ends to even sizes."""
    ends = [pad for n in reversed(image_NDHW.shape[1:]) for pad in (0, n % 2)]
    return F.pad(image_NDHW, ends)


@torch.no_grad()
def best_shifts(query_QDHW: Tensor, bank_BDHW: Tensor) -> Shifts:
    """Correlate all pairs of two sets at every shift, at half resolution.

    Args:
        query_QDHW: float32, even sizes.
        bank_BDHW: of the same size.

    Returns:
        Likeness of what remains without the smooth part at the best shift, and that shift of the
        bank's volume, in voxels of full resolution; shifts are at most `REACH` of a side.
    """
    query, bank = (_unit_detail(x) for x in (query_QDHW, bank_BDHW))
    size = query.shape[1:]
    allowed = _allowed(size)
    spectrum = torch.fft.rfftn(bank, dim=(1, 2, 3)).conj()
    likeness, shift = [], []
    for volume in query:
        at = torch.fft.irfftn(torch.fft.rfftn(volume)[None] * spectrum, s=size, dim=(1, 2, 3))
        best = at.flatten(1).masked_fill(~allowed, -2.0).max(dim=1)
        likeness.append(best.values.numpy())
        index = np.stack(np.unravel_index(best.indices.numpy(), size), axis=-1)
        shift.append(2 * np.where(index > np.array(size) // 2, index - np.array(size), index))
    return Shifts(np.stack(likeness), np.stack(shift).astype(np.int64))


def _unit_detail(image_NDHW: Tensor) -> Tensor:
    small = half(image_NDHW)
    return _unit(detail(small, COARSE_SMOOTH)).view_as(small)


def _unit(image_NDHW: Tensor) -> Tensor:
    """Return volumes as vectors (N, DHW) of mean 0 and length 1."""
    flat = image_NDHW.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    length: Tensor = flat.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return flat / length


def _allowed(size: Sequence[int]) -> Tensor:
    """Return which circular shifts are small enough, (DHW,)."""
    near = [torch.minimum(torch.arange(n), n - torch.arange(n)) <= REACH * n for n in size]
    d, h, w = near
    return (d[:, None, None] & h[:, None] & w).flatten()


@torch.no_grad()
def align(
    fixed_PDHW: Tensor, moving_PDHW: Tensor, shift_P3: Tensor, spacing: Sequence[float]
) -> Tensor:
    """Move volumes rigidly onto others, so that they correlate best.

    Args:
        fixed_PDHW: float32, even sizes.
        moving_PDHW: of the same size.
        shift_P3: first shift of each moving volume in voxels, from `best_shifts`.
        spacing: voxel size along D, H, W in any one unit.

    Returns:
        The moved volumes (P, D, H, W); no worse than the shifted ones.
    """
    chunks = zip(*(x.split(_CHUNK) for x in (fixed_PDHW, moving_PDHW, shift_P3)), strict=True)
    parts = [_align(fixed, moving, shift, spacing) for fixed, moving, shift in chunks]
    return torch.cat(parts) if parts else moving_PDHW[:0]


def _align(fixed: Tensor, moving: Tensor, shift_P3: Tensor, spacing: Sequence[float]) -> Tensor:
    mm = torch.tensor([float(s) for s in spacing])
    turn = torch.eye(3).repeat(len(fixed), 1, 1)
    move = -shift_P3.float() * mm  # a volume that moves by +s is read at x - s
    coarse = _Level(half(fixed), half(moving), 2 * mm)
    fine = _Level(fixed, moving, mm)
    for level, steps in zip((coarse, fine), STEPS, strict=True):
        turn, move = level.descend(turn, move, steps)
    return fine.moved(turn, move, 1)[:, 0]


class _Level:
    """Pairs at one resolution; a motion reads the moving volume at ``turn @ x + move``."""

    def __init__(self, fixed: Tensor, moving: Tensor, mm: Tensor) -> None:
        size = fixed.shape[1:]
        self.fixed = _unit(fixed)
        slopes = torch.gradient(moving, spacing=[float(s) for s in mm], dim=(1, 2, 3))
        self.channels = torch.stack([moving, *slopes], dim=1)
        axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(size, mm, strict=True)]
        self.points_N3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(-1, 3)
        self.ones = torch.ones_like(self.fixed)[:, None]
        self.reach = mm * (torch.tensor(size) - 1).clamp_min(1) / 2
        self.size = size
        self.radius = float(self.points_N3.abs().amax())

    def moved(self, turn: Tensor, move: Tensor, channels: int = 4) -> Tensor:
        """Return moving volumes and their slopes (P, 4, D, H, W) after a motion."""
        place = self.points_N3 @ turn.transpose(1, 2) + move[:, None]
        grid = (place / self.reach).flip(-1).view(len(turn), *self.size, 3)
        return F.grid_sample(self.channels[:, :channels], grid, align_corners=True)

    def descend(self, turn: Tensor, move: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return the best motion (P, 3, 3), (P, 3) of some Gauss-Newton steps."""
        best = torch.full((len(turn),), -2.0)
        best_turn, best_move = turn, move
        for step in range(steps + 1):
            moved = self.moved(turn, move, 1 if step == steps else 4).flatten(2)
            value = (self.fixed * _unit(moved[:, 0])).sum(dim=1)
            better = value > best
            best = torch.where(better, value, best)
            best_turn = torch.where(better[:, None, None], turn, best_turn)
            best_move = torch.where(better[:, None], move, best_move)
            if step < steps:
                turn, move = self._step(moved, turn, move, value)
        return best_turn, best_move

    def _step(
        self, moved_P4N: Tensor, turn: Tensor, move: Tensor, value_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Solve the linearised fit of ``gain * moved + offset`` to the fixed volumes."""
        slope = moved_P4N[:, 1:]
        turned = (self.points_N3 @ turn.transpose(1, 2) / self.radius).transpose(1, 2)
        rows = [slope, torch.linalg.cross(turned, slope, dim=1), moved_P4N[:, :1], self.ones]
        fit_P8N = torch.cat(rows, dim=1)
        normal = (fit_P8N @ fit_P8N.transpose(1, 2)).double()
        right = (fit_P8N @ self.fixed[..., None]).double()
        scale = normal.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-12)
        normal = normal / (scale[:, :, None] * scale[:, None]) + _DAMPING * torch.eye(8).double()
        found = (torch.linalg.solve(normal, right / scale[..., None])[..., 0] / scale)[:, :6]
        gain = (value_P / _length(moved_P4N[:, 0]))[:, None]
        step = torch.where(gain > 0, found.float() / gain, torch.zeros(()))
        return _rotations(step[:, 3:] / self.radius) @ turn, move + step[:, :3]


def _length(flat_PN: Tensor) -> Tensor:
    length: Tensor = (flat_PN - flat_PN.mean(dim=1, keepdim=True)).norm(dim=1)
    return length.clamp_min(1e-6)


def _rotations(vector_P3: Tensor) -> Tensor:
    """Return the rotations (P, 3, 3) by vectors in radians, at most 0.2 each."""
    vector = vector_P3 * (0.2 / vector_P3.norm(dim=1, keepdim=True).clamp_min(0.2))
    x, y, z = vector.unbind(dim=1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    turn: Tensor = torch.matrix_exp(cross)
    return turn
