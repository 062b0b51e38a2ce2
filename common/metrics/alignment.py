"""Alignment: does a segmenter find in a generated image the mask that it was made for?

A segmenter errs on real scans too, so its Dice on generated images stands beside its Dice on real
scans that it has not seen: a perfect generator reaches that one, ratio 1.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import DiceMetric
from torch import Tensor

from common.data.labels import LabelSchema
from common.errors import MedpairError
from common.metrics.realism import scored_labels
from common.metrics.surfaces import BOTH_ABSENT, hd95
from common.metrics.values import Value, mean_of, not_computed

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Segment = Callable[[Tensor], Tensor]
"""Label maps (V, D, H, W) of images (V, D, H, W) in [-1, 1]."""

_ABSENT = "the label is in neither mask of any image"
_BLIND = "the segmenter fails on the real scans"
_EXACT = "the segmenter is exact on the real scans: HD95 is 0"


def label_dice(prediction: LabelMap, reference: LabelMap, schema: LabelSchema) -> dict[str, Value]:
    """Return the Dice of each label between two label maps.

    Args:
        prediction: (D, H, W) uint8 label map.
        reference: (D, H, W) uint8 label map.
        schema: the schema of both.

    Returns:
        Per label 0..1; 0 where only one map holds it, a reason where neither does.

    Raises:
        MedpairError: if the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise MedpairError(
            f"masks: shapes {prediction.shape} and {reference.shape}, one (D, H, W) wanted; "
            "predict on the grid of the reference"
        )
    metric = DiceMetric(
        include_background=False,
        reduction="none",
        ignore_empty=False,
        num_classes=schema.num_classes,
    )
    pair = (torch.from_numpy(x.astype(np.int64))[None, None] for x in (prediction, reference))
    scores = metric(*pair)[0].tolist()
    return {
        item.name: scores[item.id - 1]
        if (prediction == item.id).any() or (reference == item.id).any()
        else BOTH_ABSENT
        for item in schema.labels
    }


def alignment(
    segment: Segment,
    images: Sequence[Image],
    labels: Sequence[LabelMap],
    real_images: Sequence[Image],
    real_labels: Sequence[LabelMap],
    schema: LabelSchema,
    spacing: Sequence[float] | None = None,
) -> dict[str, object]:
    """Segment generated images and compare the result with the masks they were made for.

    Args:
        segment: gives label maps of images in [-1, 1]; trained on real scans.
        images: (D, H, W) generated images, normalised intensities (0..1, clipped).
        labels: (D, H, W) uint8 label maps that they were made for.
        real_images: real scans that the segmenter has not seen, in the same unit.
        real_labels: their label maps.
        schema: the schema of all maps.
        spacing: voxel size along D, H, W in mm; with it HD95 too.

    Returns:
        ``n``, ``n_real``; ``labels``: per label ``dice`` and ``real_dice`` (means over the images
        that have one) and ``ratio``, with a spacing ``hd95_mm``, ``real_hd95_mm`` and
        ``hd95_ratio`` too, over the images where mask and prediction hold the label; ``mean`` of
        these over ``mean_over``, the labels that are not the container, and the ratios of the
        means.

    Raises:
        MedpairError: if a set is empty, numbers differ, or a map is on another grid.
    """
    made = _set_scores(segment, images, labels, schema, spacing, "generated")
    real = _set_scores(segment, real_images, real_labels, schema, spacing, "real")
    keys = ("dice",) if spacing is None else ("dice", "hd95_mm")
    found = {
        name: {
            f"{prefix}{key}": mean_of((row[key][name] for row in rows), _ABSENT)
            for key in keys
            for prefix, rows in (("", made), ("real_", real))
        }
        for name in schema.names[1:]
    }
    counted = [item.name for item in scored_labels(schema)]
    mean = {
        f"{prefix}{key}": mean_of((found[name][f"{prefix}{key}"] for name in counted), _ABSENT)
        for key in keys
        for prefix in ("", "real_")
    }
    return {
        "n": len(made),
        "n_real": len(real),
        "labels": {name: _with_ratios(numbers) for name, numbers in found.items()},
        "mean": _with_ratios(mean),
        "mean_over": counted,
    }


def _set_scores(
    segment: Segment,
    images: Sequence[Image],
    labels: Sequence[LabelMap],
    schema: LabelSchema,
    spacing: Sequence[float] | None,
    kind: str,
) -> list[dict[str, dict[str, Value]]]:
    """Return the scores of every image by measure and label."""
    if not images or len(images) != len(labels):
        raise MedpairError(
            f"images: {len(images)} {kind} with {len(labels)} masks, at least 1 and as many masks "
            "wanted; give a mask per image"
        )
    rows = []
    for image, label in zip(images, labels, strict=True):
        volume = torch.from_numpy(2 * np.clip(image, 0, 1) - 1).float()
        prediction = segment(volume[None])[0].cpu().numpy().astype(np.uint8)
        scores = {"dice": label_dice(prediction, label, schema)}
        if spacing is not None:
            scores["hd95_mm"] = {
                item.name: hd95(prediction == item.id, label == item.id, spacing)
                for item in schema.labels
            }
        rows.append(scores)
    return rows


def _with_ratios(numbers: Mapping[str, Value]) -> dict[str, Value]:
    found = {**numbers, "ratio": _ratio(numbers["dice"], numbers["real_dice"], _BLIND)}
    if "hd95_mm" in numbers:
        found["hd95_ratio"] = _ratio(numbers["hd95_mm"], numbers["real_hd95_mm"], _EXACT)
    return found


def _ratio(value: Value, real: Value, nothing: str) -> Value:
    for item in (value, real):
        if isinstance(item, str):
            return item
    return float(value) / float(real) if real else not_computed(nothing)
