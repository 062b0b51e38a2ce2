"""Locality: does an edit of a mask change the image where the mask changed, and only there?

D, H, W volume size. A generator errs without any edit too, so each number of the edited image
stands beside that of the image made for the unedited mask by the same noise: what these two differ
by is the effect of the edit.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

from common.data.labels import LabelSchema
from common.errors import MedpairError
from common.metrics.alignment import Segment, label_dice
from common.metrics.fidelity import KERNEL_SIGMA, ssim_kernel
from common.metrics.realism import scored_labels
from common.metrics.values import Value, mean_of, not_computed

LabelMap = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.float32]

NOTHING = not_computed("no voxel lies there")


def edited_region(
    before: LabelMap, after: LabelMap, spacing: Sequence[float], margin_mm: float
) -> Mask:
    """Return the voxels that lie within a margin of a changed one.

    Args:
        before: (D, H, W) uint8 label map.
        after: the edited map.
        spacing: voxel size in mm along the maps' axes.
        margin_mm: distance of voxel centres, >= 0; 0 gives the changed voxels themselves.

    Returns:
        bool (D, H, W); nowhere true for equal maps.

    Raises:
        MedpairError: if the shapes differ or the margin is negative.
    """
    if before.shape != after.shape or margin_mm < 0:
        raise MedpairError(
            f"edit: masks of shapes {before.shape} and {after.shape}, margin {margin_mm:g} mm; "
            "one shape and a margin >= 0 wanted; draw the edit on the mask's grid"
        )
    changed = np.asarray(before != after)
    if not changed.any():
        return changed
    near = ndimage.distance_transform_edt(~changed, sampling=spacing) <= margin_mm
    return np.asarray(near, dtype=bool)


def regional_change(a: Image, b: Image, regions: dict[str, Mask]) -> dict[str, dict[str, Value]]:
    """Compare two images region by region.

    Args:
        a: (D, H, W) image, normalised intensities (0..1, clipped).
        b: another of the same grid.
        regions: voxels by name.

    Returns:
        Per region ``mae`` and ``ssim`` (the mean over the region of the map of local structural
        similarity, whose windows reach 3 voxels across the border), each a number or a reason.

    Raises:
        MedpairError: if the shapes differ.

    Source:
        SSIM: Wang et al. 2004, "Image quality assessment: from error visibility to structural
        similarity".
    """
    if any(x.shape != a.shape for x in (b, *regions.values())):
        raise MedpairError(
            f"image: shapes {a.shape} and {b.shape}, one grid wanted; resample them onto it"
        )
    one, other = (np.clip(x, 0, 1).astype(np.float64) for x in (a, b))
    error, likeness = np.abs(one - other), _ssim_map(one, other)
    return {
        name: {
            "mae": float(error[region].mean()) if region.any() else NOTHING,
            "ssim": _mean_in(likeness, region),
        }
        for name, region in regions.items()
    }


def locality(
    result: Image,
    source: Image,
    unedited: Image,
    label: LabelMap,
    edited: LabelMap,
    region: Mask,
) -> dict[str, object]:
    """Say where an edited image differs from the real one, and how much of that is the edit's.

    Args:
        result: (D, H, W) image made for the edited mask, normalised intensities.
        source: the real image.
        unedited: the image made for the unedited mask with the same noise and informed slice.
        label: (D, H, W) uint8 label map of the real image.
        edited: the edited map.
        region: from `edited_region`.

    Returns:
        ``voxels``: how many changed and lie ``inside`` the region and ``outside`` it (in the body
        of either mask); ``result_to_source``, ``unedited_to_source`` (the model's own error) and
        ``result_to_unedited`` (the effect of the edit), each as `regional_change`;
        ``effect_ratio``: mean absolute effect inside over that outside.

    Raises:
        MedpairError: if the shapes differ.
    """
    body = (label > 0) | (edited > 0)
    regions = {"inside": region, "outside": body & ~region}
    effect = regional_change(result, unedited, regions)
    inside, outside = effect["inside"]["mae"], effect["outside"]["mae"]
    ratio: Value = not_computed("the edit has no effect outside its region")
    if isinstance(inside, str) or isinstance(outside, str):
        ratio = NOTHING
    elif outside > 0:
        ratio = inside / outside
    voxels = {name: int(np.count_nonzero(where)) for name, where in regions.items()}
    return {
        "voxels": {"changed": int(np.count_nonzero(label != edited)), **voxels},
        "result_to_source": regional_change(result, source, regions),
        "unedited_to_source": regional_change(unedited, source, regions),
        "result_to_unedited": effect,
        "effect_ratio": ratio,
    }


def edit_alignment(
    segment: Segment,
    result: Image,
    source: Image,
    label: LabelMap,
    edited: LabelMap,
    region: Mask,
    schema: LabelSchema,
) -> dict[str, object]:
    """Ask a segmenter whether the edited image shows the edited mask inside the edited region.

    Args:
        segment: gives label maps of images in [-1, 1]; trained on real scans.
        result: (D, H, W) image made for the edited mask, normalised intensities.
        source: the real image.
        label: (D, H, W) uint8 label map of the real image.
        edited: the edited map.
        region: from `edited_region`.
        schema: the schema of both maps.

    Returns:
        ``dice``: per label that of result and edited mask inside the region; ``source_dice``: that
        of real image and its mask there, which is the segmenter's own error; ``mean`` of both over
        the labels that are not the container; ``changed``: the shares of the changed voxels that
        the segmenter sees ``as_edited`` and ``as_before`` in the result, and
        ``source_as_before``, its share of right voxels in the real image.
    """
    found, real = (_segmented(segment, image) for image in (result, source))
    dice = label_dice(found * region, edited * region, schema)
    source_dice = label_dice(real * region, label * region, schema)
    names = [item.name for item in scored_labels(schema)]
    changed = label != edited
    return {
        "dice": dice,
        "source_dice": source_dice,
        "mean": {
            key: mean_of((row[name] for name in names), "no label lies in the region")
            for key, row in (("dice", dice), ("source_dice", source_dice))
        },
        "changed": {
            "as_edited": _share(found == edited, changed),
            "as_before": _share(found == label, changed),
            "source_as_before": _share(real == label, changed),
        },
    }


def _segmented(segment: Segment, image: Image) -> LabelMap:
    volume = torch.from_numpy(2 * np.clip(image, 0, 1) - 1).float()
    return np.asarray(segment(volume[None])[0].cpu().numpy().astype(np.uint8))


def _share(hit: Mask, among: Mask) -> Value:
    return float(hit[among].mean()) if among.any() else NOTHING


def _ssim_map(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Image | None:
    kernel = ssim_kernel(a.shape)
    if kernel is None:
        return None
    truncate = (kernel - 1) / 2 / KERNEL_SIGMA  # as wide as the kernel of the fidelity metrics
    _, found = structural_similarity(
        a,
        b,
        data_range=1.0,
        gaussian_weights=True,
        sigma=KERNEL_SIGMA,
        truncate=truncate,
        use_sample_covariance=False,
        full=True,
    )
    return np.asarray(found, dtype=np.float32)


def _mean_in(values: Image | None, region: Mask) -> Value:
    if values is None:
        return not_computed("the volume is too small for SSIM")
    return float(values[region].mean()) if region.any() else NOTHING
