"""Paired image fidelity: a generated image against the real scan of the same mask.

SSIM, MS-SSIM and PSNR are taken in 3D and slice by slice in the three views, over the slices in
which the mask shows anything. Images are clipped to [0, 1] first. Empty surroundings count: they
are part of the image, and are the same for all methods compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.regression import MultiScaleSSIMMetric, PSNRMetric, SSIMMetric
from torch import Tensor

from common.data.labels import LabelSchema
from common.data.views import triple_to_dhw
from common.errors import MedpairError
from common.metrics.intensity import intensity_error
from common.metrics.values import Value, mean_of, not_computed, number

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weight of each scale of MS-SSIM, fine to coarse (Wang, Simoncelli, Bovik 2003, section 3.2)."""

KERNEL_SIGMA = 1.5
"""Standard deviation in voxels of the Gaussian kernel (Wang et al. 2004)."""

VOLUME_KERNEL = 7
"""Widest kernel in 3D."""

_SETTINGS = ((11, 5), (11, 4), (7, 4), (7, 3), (5, 3), (5, 2))
"""(kernel, scales) from the published setting down to what still fits 10 voxels."""


@dataclass(frozen=True)
class MsSsimSetting:
    """The setting of MS-SSIM for one image size: part of every number that it produces.

    Attributes:
        kernel: width of the Gaussian kernel in voxels.
        scales: number of scales, each half the size of the one before.
        weights: weight of each scale, summing to 1.
    """

    kernel: int
    scales: int
    weights: tuple[float, ...]


def ms_ssim_setting(size: Sequence[int]) -> MsSsimSetting | None:
    """Choose the setting of MS-SSIM that is nearest to the published one and fits an image.

    MONAI wants `side // (scales - 1)**2 > kernel - 1`; with the published 5 scales and kernel 11
    that is 176 voxels. With fewer scales the first weights are kept and scaled to the sum 1.
    Volumes take a kernel of at most 7, which still spans two standard deviations to each side: the
    cost of a volume kernel grows with its cube.

    Args:
        size: number of voxels along each axis.

    Returns:
        The setting, None if no setting fits (a side below 10 voxels).

    Source:
        Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment",
        2003.
    """
    side = min(size)
    for kernel, scales in _SETTINGS:
        if len(size) == 3 and kernel > VOLUME_KERNEL:
            continue
        if side // (scales - 1) ** 2 >= kernel and side >> (scales - 1) >= kernel:
            total = sum(WEIGHTS[:scales])
            return MsSsimSetting(kernel, scales, tuple(w / total for w in WEIGHTS[:scales]))
    return None


def ssim_kernel(size: Sequence[int]) -> int | None:
    """Return the widest kernel that fits three times into an image, None if none does.

    Args:
        size: number of voxels along each axis; slices take 11, 7 or 5, volumes 7 or 5.
    """
    kernels = (11, 7, 5) if len(size) == 2 else (VOLUME_KERNEL, 5)
    return next((kernel for kernel in kernels if min(size) >= 3 * kernel), None)


def paired_fidelity(
    generated: Image, real: Image, label: LabelMap, slice_axis: str
) -> dict[str, dict[str, object]]:
    """Compare one generated image with the real scan of the same mask.

    Args:
        generated: (D, H, W) image, normalised intensities (0..1, clipped here).
        real: (D, H, W) real scan in the same unit.
        label: (D, H, W) uint8 label map; slices without any label are left out of the views.
        slice_axis: "AP" or "SI", the direction of D.

    Returns:
        Per view ("3D", and slices "A" axial, "C" coronal, "S" sagittal): ``ssim``, ``ms_ssim``,
        ``psnr`` in dB, each a number or the reason why there is none, ``slices`` (1 in 3D) and the
        ``setting`` (kernels, scales, weights).

    Raises:
        MedpairError: if the shapes differ.
    """
    if not generated.shape == real.shape == label.shape or real.ndim != 3:
        raise MedpairError(
            f"image: shapes {generated.shape}, real {real.shape}, label {label.shape}, one (D, H, "
            "W) wanted; generate for the real label map on its own grid"
        )
    pair = [torch.from_numpy(np.clip(x, 0, 1).astype(np.float32)) for x in (generated, real)]
    report = {"3D": _scores(*(x[None, None] for x in pair))}
    views: tuple[str, str, str] = triple_to_dhw(("S", "C", "A"), slice_axis)
    for axis, view in enumerate(views):
        shown = label.any(axis=tuple(a for a in range(3) if a != axis))
        keep = torch.from_numpy(np.flatnonzero(shown))
        report[view] = _scores(
            *(x.index_select(axis, keep).movedim(axis, 0)[:, None] for x in pair)
        )
    return report


def evaluate_images(
    generated: Sequence[Image],
    real: Sequence[Image],
    labels: Sequence[LabelMap],
    ids: Sequence[str],
    schema: LabelSchema,
) -> dict[str, object]:
    """Compare the images made for real masks with the real scans.

    Args:
        generated: (D, H, W) images, one for each real mask, normalised intensities.
        real: (D, H, W) real scans in the same unit.
        labels: (D, H, W) uint8 label maps of the scans.
        ids: names of the pairs.
        schema: their schema.

    Returns:
        ``n``; ``mean``: per view the mean scores; ``intensity``: per label the mean absolute error
        of median and iqr; ``pairs``: the same per pair.

    Raises:
        MedpairError: if the numbers of images, masks and names differ, or shapes differ within a
            pair.
    """
    counts = {len(generated), len(real), len(labels), len(ids)}
    if len(counts) != 1 or counts == {0}:
        raise MedpairError(
            f"images: {len(generated)} generated, {len(real)} real, {len(labels)} masks, "
            f"{len(ids)} ids, one number of at least 1 wanted; generate one image for each "
            "held-back mask"
        )
    views, spreads = {}, {}
    for name, made, scan, label in zip(ids, generated, real, labels, strict=True):
        views[name] = paired_fidelity(made, scan, label, schema.slice_axis)
        spreads[name] = intensity_error(made, scan, label, schema)
    return {
        "n": len(views),
        "mean": _mean(list(views.values()), ("ssim", "ms_ssim", "psnr")),
        "intensity": _mean(list(spreads.values()), ("median", "iqr")),
        "pairs": {name: {"views": views[name], "intensity": spreads[name]} for name in views},
    }


def _mean(
    reports: Sequence[Mapping[str, Mapping[str, object]]], keys: Sequence[str]
) -> dict[str, dict[str, Value]]:
    """Average the numbers of many reports; where no report has one, the first reason stands."""
    return {
        name: {key: _mean_or_reason([r[name][key] for r in reports]) for key in keys}
        for name in reports[0]
    }


def _mean_or_reason(values: Sequence[object]) -> Value:
    known: list[Value] = [v for v in values if isinstance(v, (float, str))]
    reasons = [v for v in known if isinstance(v, str)]
    return reasons[0] if len(reasons) == len(known) else mean_of(known)


def _scores(generated: Tensor, real: Tensor) -> dict[str, object]:
    """Score a batch (B, 1, ...) of images or slices, averaged over the batch."""
    size = tuple(real.shape[2:])
    kernel, multi = ssim_kernel(size), ms_ssim_setting(size)
    small = not_computed(f"size {'x'.join(map(str, size))} is too small")
    nothing = not_computed("the mask is empty")
    empty = real.shape[0] == 0
    return {
        "ssim": nothing if empty else small if kernel is None else _ssim(generated, real, kernel),
        "ms_ssim": nothing
        if empty
        else small
        if multi is None
        else _ms_ssim(generated, real, multi),
        "psnr": nothing if empty else _psnr(generated, real),
        "slices": int(real.shape[0]),
        "setting": {
            "kernel_sigma": KERNEL_SIGMA,
            "ssim_kernel": kernel,
            "ms_ssim": None if multi is None else asdict(multi),
        },
    }


def _ssim(generated: Tensor, real: Tensor, kernel: int) -> Value:
    metric = SSIMMetric(real.ndim - 2, data_range=1.0, win_size=kernel, kernel_sigma=KERNEL_SIGMA)
    return number(float(metric(generated, real).mean()), "SSIM is not finite")


def _ms_ssim(generated: Tensor, real: Tensor, setting: MsSsimSetting) -> Value:
    values = ms_ssim_values(generated, real, setting)
    reasons = [value for value in values if isinstance(value, str)]
    return reasons[0] if reasons else mean_of(values)


def ms_ssim_values(generated: Tensor, real: Tensor, setting: MsSsimSetting) -> list[Value]:
    """Return the MS-SSIM of every image of a batch.

    Args:
        generated: (B, 1, ...) images or slices, 0..1.
        real: the same of real ones.
        setting: from `ms_ssim_setting`.

    Returns:
        Per image 0..1, or the reason why there is none.
    """
    metric = MultiScaleSSIMMetric(
        real.ndim - 2,
        data_range=1.0,
        kernel_size=setting.kernel,
        kernel_sigma=KERNEL_SIGMA,
        weights=setting.weights,
    )
    found = metric(generated, real).flatten().tolist()
    return [number(value, "MS-SSIM is not finite") for value in found]


def _psnr(generated: Tensor, real: Tensor) -> Value:
    """Average over the slices that differ: one equal slice would make the mean infinite."""
    values = PSNRMetric(max_val=1.0, reduction="none")(generated, real).flatten()
    return mean_of(
        values[torch.isfinite(values)].tolist(), "the images are equal, PSNR is infinite"
    )
