"""Likeness of volumes after rigid alignment, mirrored or not, for all pairs that could be copies.

Two likenesses, both correlations: ``plain`` of intensities, which are alike in all brains, and
``detail`` of what remains without the smooth part, which tells persons apart.

Q, B volumes of two sets, P pairs, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from common.metrics.rigid import Shifts, align, best_shifts, correlation, detail, even

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.float32]

SIDE = 64
"""Longest side at which volumes are compared; larger ones are averaged down."""
SMOOTH = 0.05
"""Standard deviation of the Gaussian that takes detail from the smooth part, in shorter sides."""
KINDS = ("plain", "detail")


def comparable(images: Sequence[Image]) -> Tensor:
    """Return images (N, D, H, W) clipped to [0, 1], averaged down to `SIDE`, of even sizes.

    Args:
        images: (D, H, W) normalised intensities, all of one shape.
    """
    volumes = torch.from_numpy(np.stack([np.clip(image, 0, 1) for image in images])).float()
    shrink = max(1.0, max(volumes.shape[1:]) / SIDE)
    if shrink > 1:
        d, h, w = (max(2, round(n / shrink)) for n in volumes.shape[1:])
        volumes = F.adaptive_avg_pool3d(volumes[:, None], (d, h, w))[:, 0]
    return even(volumes)


def aligned_likeness(
    query_QDHW: Tensor,
    bank_BDHW: Tensor,
    spacing: Sequence[float],
    *,
    skip: Mask | None = None,
    rows: int = 3,
    columns: int = 0,
    mirror: bool = True,
) -> dict[str, Floats]:
    """Correlate volumes of two sets after rigid alignment; only the likely pairs are aligned.

    Args:
        query_QDHW: from `comparable`.
        bank_BDHW: from `comparable`, of the same size.
        spacing: voxel size along D, H, W; its unit does not matter.
        skip: (Q, B) pairs that do not count, such as scans of one person.
        rows: aligned pairs per query, those most alike in the coarse search.
        columns: the same per volume of the bank.
        mirror: also compare with the bank reflected left to right (the last axis).

    Returns:
        (Q, B) matrices "plain" and "detail", -1..1; NaN for pairs that were skipped or unlikely.
    """
    shape = len(query_QDHW), len(bank_BDHW)
    found = {kind: np.full(shape, np.nan) for kind in KINDS}
    if 0 in shape:
        return found
    banks = [bank_BDHW, even(bank_BDHW.flip(-1))] if mirror else [bank_BDHW]
    searched = [best_shifts(query_QDHW, bank) for bank in banks]
    likeness = np.max([s.likeness for s in searched], axis=0).astype(np.float64)
    if skip is not None:
        likeness[skip] = -np.inf
    q, b = np.nonzero(_likely(likeness, rows, columns))
    side = np.argmax([s.likeness[q, b] for s in searched], axis=0)
    if len(q):
        moving = torch.stack([banks[m][j] for m, j in zip(side, b, strict=True)])
        fixed = query_QDHW[torch.from_numpy(q)]
        moved = align(fixed, moving, _shifts(searched, side, q, b), spacing)
        found["plain"][q, b] = correlation(fixed, moved).double().numpy()
        details = (detail(x, SMOOTH) for x in (fixed, moved))
        found["detail"][q, b] = correlation(*details).double().numpy()
    return found


def _likely(likeness: Floats, rows: int, columns: int) -> Mask:
    """Return the best pairs of every row and column; skipped ones are -inf."""
    chosen = np.zeros(likeness.shape, np.bool_)
    for axis, count in ((1, rows), (0, columns)):
        best = np.argsort(-likeness, axis=axis, kind="stable")
        np.put_along_axis(chosen, np.take(best, range(min(count, best.shape[axis])), axis), 1, axis)
    return chosen & np.isfinite(likeness)


def _shifts(
    searched: Sequence[Shifts],
    side: npt.NDArray[np.intp],
    q: npt.NDArray[np.intp],
    b: npt.NDArray[np.intp],
) -> Tensor:
    return torch.from_numpy(np.stack([s.shift for s in searched])[side, q, b])
