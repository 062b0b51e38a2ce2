"""Harmony of a set of images: how much intensities differ from volume to volume.

Scans of several scanners and protocols differ in the intensity of one tissue; a harmonised set does
not. All images of a set are in one unit (normalised, about 0..1).
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from common.data.labels import LabelSchema
from common.errors import MedpairError
from common.metrics.intensity import label_intensity
from common.metrics.values import Value, not_computed

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

QUANTILES = 1024
_FEW = not_computed("fewer than 2 volumes hold the label")
_ONE = not_computed("a spread needs at least 2 volumes")


def median_spread(
    images: Sequence[Image], labels: Sequence[LabelMap], schema: LabelSchema
) -> dict[str, Value]:
    """Return, for each label, the standard deviation over volumes of its median intensity.

    Args:
        images: (D, H, W) images in one unit.
        labels: their (D, H, W) uint8 label maps.
        schema: the schema of all maps.

    Returns:
        Per label the deviation (divisor n - 1) in the unit of the images, or a reason.

    Raises:
        MedpairError: if numbers or shapes differ.
    """
    _check(images, labels)
    rows = [label_intensity(i, m, schema) for i, m in zip(images, labels, strict=True)]
    found: dict[str, Value] = {}
    for item in schema.labels:
        values = [row[item.name]["median"] for row in rows]
        medians = [v for v in values if not isinstance(v, str)]
        found[item.name] = float(np.std(medians, ddof=1)) if len(medians) > 1 else _FEW
    return found


def histogram_distance(images: Sequence[Image], labels: Sequence[LabelMap]) -> Value:
    """Return the mean Wasserstein-1 distance between the foreground histograms of two volumes.

    In one dimension it is the mean distance of equal quantiles; `QUANTILES` of them stand for a
    histogram, so that the cost does not grow with the volumes.

    Args:
        images: (D, H, W) images in one unit.
        labels: (D, H, W) uint8 label maps; all but 0 is foreground.

    Returns:
        The mean over all pairs of volumes, in the unit of the images; a reason for less than two.

    Raises:
        MedpairError: if numbers or shapes differ, or a mask is empty.
    """
    _check(images, labels)
    quantiles = [_quantiles(i[m > 0]) for i, m in zip(images, labels, strict=True)]
    distances = [float(np.abs(a - b).mean()) for a, b in combinations(quantiles, 2)]
    return float(np.mean(distances)) if distances else _ONE


def harmony(
    images: Sequence[Image], labels: Sequence[LabelMap], schema: LabelSchema
) -> dict[str, object]:
    """Return all that says how far the volumes of a set lie apart; arguments as `median_spread`.

    Returns:
        ``n``; ``median_spread`` per label; ``histogram_distance``.
    """
    return {
        "n": len(images),
        "median_spread": median_spread(images, labels, schema),
        "histogram_distance": histogram_distance(images, labels),
    }


def _quantiles(values: Image) -> Floats:
    if not values.size:
        raise MedpairError("label: an empty mask, wanted foreground; remove the pair")
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    found: Floats = np.quantile(values.astype(np.float64), levels)
    return found


def _check(images: Sequence[Image], labels: Sequence[LabelMap]) -> None:
    if not images or len(images) != len(labels):
        raise MedpairError(
            f"images: {len(images)} with {len(labels)} masks, at least 1 and as many masks wanted; "
            "give a mask per image"
        )
    for image, label in zip(images, labels, strict=True):
        if image.shape != label.shape:
            raise MedpairError(
                f"image: shape {image.shape}, that of its label map {label.shape} wanted; pair "
                "them on one grid"
            )
