"""Consistency of volumes from slice to slice: noise, stripes and seams along each axis.

Along an axis, I[k] are the slices of an image. The profile of step k, between slices k - 1 and k,
is the mean of |I[k] - I[k-1]| over the voxels where the mask is foreground in either of the two.
Axes are named D, H, W. All intensities are in one unit for generated and real images.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from common.errors import MedpairError
from common.metrics.values import Value, mean_of, not_computed, number

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

AXES = ("D", "H", "W")
REACH = 3
"""Steps to each side of a joint that it is compared with."""

_EMPTY = "no two slices of foreground follow each other"


def step_profile(image: Image, label: LabelMap, axis: int) -> Floats:
    """Return the mean absolute step between neighbouring slices, over the foreground.

    Args:
        image: (D, H, W) image.
        label: (D, H, W) uint8 label map; all but 0 is foreground.
        axis: 0, 1 or 2.

    Returns:
        (n - 1,) for n slices; entry k - 1 is the step from slice k - 1 to k, NaN where neither
        slice holds foreground.

    Raises:
        MedpairError: if the shapes differ.
    """
    image_N, shown_N = _slices(image, label, axis)
    return _masked_mean(np.abs(np.diff(image_N, axis=0)), shown_N[1:] | shown_N[:-1])


def bend_profile(image: Image, label: LabelMap, axis: int) -> Floats:
    """Return the mean of |I[k-1] - 2 I[k] + I[k+1]|, over the foreground of slice k.

    It is zero for intensities that rise evenly, and four times the amplitude for those that go up
    and down from slice to slice.

    Args:
        image: (D, H, W) image.
        label: (D, H, W) uint8 label map; all but 0 is foreground.
        axis: 0, 1 or 2.

    Returns:
        (n - 2,) for n slices; entry k - 1 belongs to slice k, NaN without foreground.

    Raises:
        MedpairError: if the shapes differ.
    """
    image_N, shown_N = _slices(image, label, axis)
    return _masked_mean(np.abs(np.diff(image_N, n=2, axis=0)), shown_N[1:-1])


def offset_profile(image: Image, label: LabelMap, axis: int) -> Floats:
    """Return by how much whole slices lie above or below the mean of their two neighbours.

    |mean of I[k-1] - 2 I[k] + I[k+1]| / 2 over the voxels that are foreground in all three: noise
    and detail of single voxels average out, an offset of a whole slice stays.

    Args:
        image: (D, H, W) image.
        label: (D, H, W) uint8 label map; all but 0 is foreground.
        axis: 0, 1 or 2.

    Returns:
        (n - 2,) for n slices; entry k - 1 belongs to slice k, NaN without such voxels.

    Raises:
        MedpairError: if the shapes differ.
    """
    image_N, shown_N = _slices(image, label, axis)
    shown = shown_N[:-2] & shown_N[1:-1] & shown_N[2:]
    return np.abs(_masked_mean(np.diff(image_N, n=2, axis=0), shown)) / 2


PROFILES: Mapping[str, Callable[[Image, LabelMap, int], Floats]] = {
    "slice_noise": step_profile,
    "odd_even": bend_profile,
    "slice_offset": offset_profile,
}


def seam_index(image: Image, label: LabelMap, joints: Sequence[int], axis: int) -> Value:
    """Return how much larger the steps at joints are than the steps around them.

    Args:
        image: (D, H, W) image.
        label: (D, H, W) uint8 label map.
        joints: slices k (1 .. n - 1) where a new window begins: the joint is between k - 1 and k.
        axis: 0, 1 or 2, along which windows were joined.

    Returns:
        The mean over joints of profile at the joint / mean profile of the up to `REACH` steps to
        each side that are no joints. About 1 on real scans, whose profile changes slowly; above 1
        where joints show. A reason where no joint lies in the foreground.

    Raises:
        MedpairError: for a joint outside the volume, or if the shapes differ.
    """
    profile = step_profile(image, label, axis)
    wrong = [k for k in joints if not 1 <= k <= len(profile)]
    if wrong:
        raise MedpairError(
            f"joints: slices {wrong}, 1..{len(profile)} wanted; name the first slice of each later "
            "window"
        )
    elsewhere = profile.copy()
    elsewhere[[k - 1 for k in joints]] = np.nan
    ratios = []
    for step in (k - 1 for k in joints):
        around = elsewhere[max(0, step - REACH) : step + REACH + 1]
        known = around[np.isfinite(around)]
        if known.size and known.mean() > 0 and np.isfinite(profile[step]):
            ratios.append(float(profile[step] / known.mean()))
    return mean_of(ratios, "no joint lies between steps of the foreground")


def consistency(
    generated: Sequence[Image],
    labels: Sequence[LabelMap],
    real: Sequence[Image],
    real_labels: Sequence[LabelMap],
) -> dict[str, dict[str, object]]:
    """Compare the steps from slice to slice of generated images with those of real scans.

    Args:
        generated: (D, H, W) images.
        labels: (D, H, W) uint8 label maps.
        real: real scans in the same unit, at the same spacing.
        real_labels: their label maps.

    Returns:
        Per axis "D", "H", "W", each the mean over slices and images divided by that of the real
        scans (1: as real): ``slice_noise`` of `step_profile` (below 1: too smooth), ``odd_even`` of
        `bend_profile` (alternation of voxels from slice to slice, noise included) and
        ``slice_offset`` of `offset_profile` (flicker and stripes: whole slices too bright or too
        dark); and ``..._real_range``: lowest and highest of single real scans, on the same scale.

    Raises:
        MedpairError: if a set is empty, or numbers or shapes differ.
    """
    for kind, images, masks in (("generated", generated, labels), ("real", real, real_labels)):
        if not images or len(images) != len(masks):
            raise MedpairError(
                f"images: {len(images)} {kind} with {len(masks)} masks, at least 1 and as many "
                "masks wanted; give a mask per image"
            )
    report: dict[str, dict[str, object]] = {}
    for axis, name in enumerate(AXES):
        report[name] = {}
        for key, profile in PROFILES.items():
            made, scans = (
                [_mean(profile(i, m, axis)) for i, m in zip(images, masks, strict=True)]
                for images, masks in ((generated, labels), (real, real_labels))
            )
            report[name] |= _relative(key, made, scans)
    return report


def mean_profiles(images: Sequence[Image], labels: Sequence[LabelMap]) -> dict[str, object]:
    """Return the profile of steps from slice to slice, averaged over images.

    Args:
        images: (D, H, W) images of one shape, in one unit.
        labels: their (D, H, W) uint8 label maps.

    Returns:
        Per axis "D", "H", "W": ``first``, the slice k that the first step leads to, and ``steps``:
        from there to the last step that any image has, the mean of `step_profile` over the images
        that have it; a reason where no step lies in the foreground.

    Raises:
        MedpairError: if shapes differ.
    """
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise MedpairError(f"images: shapes {shapes}, one wanted; prepare the set at one size")
    report: dict[str, object] = {}
    for axis, name in enumerate(AXES):
        rows = np.stack([step_profile(i, m, axis) for i, m in zip(images, labels, strict=True)])
        report[name] = _profile(rows)
    return report


def _profile(rows_VN: Floats) -> dict[str, object] | str:
    known = np.flatnonzero(np.isfinite(rows_VN).any(0))
    if not known.size:
        return not_computed(_EMPTY)
    steps = rows_VN[:, known[0] : known[-1] + 1].T
    return {
        "first": int(known[0]) + 1,
        "steps": [mean_of((number(v, _EMPTY) for v in step), _EMPTY) for step in steps],
    }


def seams(
    images: Sequence[Image],
    labels: Sequence[LabelMap],
    joints: Sequence[Sequence[int] | None],
    axis: int = 0,
) -> dict[str, object]:
    """Return the mean `seam_index` of the images whose window joints are known.

    Args:
        images: (D, H, W) images.
        labels: their label maps.
        joints: per image the first slices of its later windows; None where nobody knows them.
        axis: along which windows were joined.

    Returns:
        ``seam_index`` and ``n``, the images that have one.

    Raises:
        MedpairError: for a joint outside its volume.
    """
    found = [
        seam_index(image, label, known, axis)
        for image, label, known in zip(images, labels, joints, strict=True)
        if known is not None
    ]
    reason = "no window joints are known" if not found else "no joint lies in the foreground"
    return {
        "seam_index": mean_of(found, reason),
        "n": sum(not isinstance(value, str) for value in found),
    }


def _relative(key: str, made: Sequence[Value], scans: Sequence[Value]) -> dict[str, object]:
    mean, unit = mean_of(made, _EMPTY), mean_of(scans, _EMPTY)
    if isinstance(unit, str) or unit == 0:
        reason = unit or not_computed("the real scans are flat along this axis")
        return {key: reason, f"{key}_real_range": reason}
    known = [float(v) / unit for v in scans if not isinstance(v, str)]
    value = mean if isinstance(mean, str) else mean / unit
    return {key: value, f"{key}_real_range": [min(known), max(known)]}


def _mean(profile: Floats) -> Value:
    known = profile[np.isfinite(profile)]
    return number(known.mean(), _EMPTY) if known.size else not_computed(_EMPTY)


def _slices(image: Image, label: LabelMap, axis: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    if image.shape != label.shape or image.ndim != 3:
        raise MedpairError(
            f"image: shape {image.shape}, label {label.shape}, one (D, H, W) wanted; pair them on "
            "one grid"
        )
    return np.moveaxis(image.astype(np.float64), axis, 0), np.moveaxis(label > 0, axis, 0)


def _masked_mean(values: Floats, shown: npt.NDArray[np.bool_]) -> Floats:
    voxels = shown.sum((1, 2))
    total = np.where(shown, values, 0).sum((1, 2))
    mean = np.full(len(voxels), np.nan)
    np.divide(total, voxels, out=mean, where=voxels > 0)
    return mean
