"""Diversity: how alike the images of one set are to each other, beside the real set.

A generator that shows a few people again and again has a higher MS-SSIM (a lower LPIPS) between its
images than real scans have. The target is the real set's own value: noise and artefacts move both
numbers beyond it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch

from common.errors import MedpairError
from common.metrics.fidelity import KERNEL_SIGMA, ms_ssim_setting, ms_ssim_values
from common.metrics.floor import ratio
from common.metrics.perceptual import SliceDistance, paired_lpips
from common.metrics.values import Value, mean_of, not_computed

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Pairs = Sequence[tuple[int, int]]

_BATCH = 1 << 20
"""Voxels compared at once."""

_NO_PAIR = "no pair has a number"


def different_persons(persons: Sequence[str], most: int, seed: int) -> list[tuple[int, int]]:
    """Draw pairs of volumes of different persons.

    Args:
        persons: the person of each volume.
        most: number of pairs; all of them where there are no more.
        seed: seed of the draw.

    Returns:
        Pairs (i, j) with i < j, in ascending order.
    """
    pairs = [(i, j) for i, j in combinations(range(len(persons)), 2) if persons[i] != persons[j]]
    if len(pairs) <= most:
        return pairs
    rows = np.random.default_rng(seed).permutation(len(pairs))[:most]
    return [pairs[row] for row in sorted(rows)]


def pairwise_ms_ssim(images: Sequence[Image], pairs: Pairs) -> list[Value]:
    """Return the MS-SSIM in 3D of some pairs of volumes.

    Args:
        images: (D, H, W) images of one shape, normalised intensities (0..1, clipped).
        pairs: which of them.

    Returns:
        Per pair 0..1, 1 for equal images, or the reason why there is none.

    Raises:
        MedpairError: if the shapes differ.
    """
    shape = _one_shape(images)
    setting = ms_ssim_setting(shape)
    if setting is None:
        reason: Value = not_computed(f"size {'x'.join(map(str, shape))} is too small")
        return [reason] * len(pairs)
    volumes = torch.from_numpy(np.stack(images).clip(0, 1).astype(np.float32))[:, None]
    batch = max(1, _BATCH // int(np.prod(shape)))
    found: list[Value] = []
    for start in range(0, len(pairs), batch):
        first, second = zip(*pairs[start : start + batch], strict=True)
        found += ms_ssim_values(volumes[list(first)], volumes[list(second)], setting)
    return found


def pairwise_lpips(
    metric: SliceDistance,
    images: Sequence[Image],
    labels: Sequence[LabelMap],
    pairs: Pairs,
    slice_axis: str,
) -> list[Value]:
    """Return the LPIPS of some pairs of volumes, the mean over three views.

    Args:
        metric: from `open_lpips`.
        images: (D, H, W) images of one shape, normalised intensities (0..1, clipped).
        labels: their label maps; slices that are empty in both are left out.
        pairs: which of them.
        slice_axis: "AP" or "SI", the direction of D.

    Raises:
        MedpairError: if the shapes differ.
    """
    _one_shape(images)
    rows = (
        paired_lpips(metric, images[i], images[j], labels[i] | labels[j], slice_axis)
        for i, j in pairs
    )
    return [mean_of(row.values(), str(row["A"]).removeprefix("not computed: ")) for row in rows]


def diversity(
    measure: Callable[[bool, Pairs], list[Value]],
    persons: Sequence[str],
    real_persons: Sequence[str],
    *,
    pairs: int = 200,
    repeats: int = 20,
    seed: int = 0,
) -> dict[str, Value]:
    """Compare how alike generated images are to each other with how alike real ones are.

    Args:
        measure: gives the values of pairs, of real images where the first argument is true.
        persons: the person (or id) of each generated image; pairs of one person do not count.
        real_persons: the person of each real image.
        pairs: most pairs per set.
        repeats: random halves of the real persons, which say how much the value varies.
        seed: seed of pairs and halves.

    Returns:
        ``pairwise``: mean of the generated set; ``real``: of the real set, the target; ``ratio`` of
        the two; ``real_p5`` and ``real_p95``: percentiles over random halves of the real persons;
        ``pairs``, ``real_pairs``, ``n``, ``n_real``.
    """
    drawn = [different_persons(names, pairs, seed) for names in (persons, real_persons)]
    values = [
        measure(real, chosen) if chosen else []
        for real, chosen in zip((False, True), drawn, strict=True)
    ]
    made, scans = (
        _mean(found, len(set(names)))
        for found, names in zip(values, (persons, real_persons), strict=True)
    )
    halves = _halves(drawn[1], values[1], real_persons, repeats, seed)
    limits = [float(np.percentile(halves, q)) for q in (5, 95)] if halves else None
    few = not_computed(f"N={len(set(real_persons))} real persons; halves with pairs wanted")
    return {
        "pairwise": made,
        "real": scans,
        "ratio": ratio(made, scans),
        "real_p5": limits[0] if limits else few,
        "real_p95": limits[1] if limits else few,
        "pairs": len(drawn[0]),
        "real_pairs": len(drawn[1]),
        "n": len(persons),
        "n_real": len(real_persons),
    }


def ms_ssim_note(shape: Sequence[int]) -> dict[str, object] | str:
    """Return kernel, scales and weights of the MS-SSIM of volumes of a size, for a report."""
    setting = ms_ssim_setting(shape)
    if setting is None:
        return not_computed(f"size {'x'.join(map(str, shape))} is too small")
    return {**asdict(setting), "kernel_sigma": KERNEL_SIGMA, "dimensions": len(shape)}


def _mean(values: Sequence[Value], persons: int) -> Value:
    if not values:
        return not_computed(f"N={persons} persons; at least 2 wanted")
    return mean_of(values, str(values[0]).removeprefix("not computed: ") or _NO_PAIR)


def _halves(
    pairs: Pairs, values: Sequence[Value], persons: Sequence[str], repeats: int, seed: int
) -> list[float]:
    """Return the mean over the pairs within random halves of the persons."""
    unique = np.unique(np.array(persons))
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(repeats):
        half = set(rng.permutation(unique)[: (len(unique) + 1) // 2].tolist())
        inside = [
            value
            for (i, j), value in zip(pairs, values, strict=True)
            if persons[i] in half and persons[j] in half
        ]
        mean = mean_of(inside)
        if not isinstance(mean, str):
            means.append(mean)
    return means


def _one_shape(images: Sequence[Image]) -> tuple[int, ...]:
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise MedpairError(
            f"images: shapes {shapes}, one wanted to compare images of a set; prepare one size"
        )
    return shapes[0]
