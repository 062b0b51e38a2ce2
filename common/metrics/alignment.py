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
from common.metrics.values import Value, mean_of, not_computed

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Segment = Callable[[Tensor], Tensor]
"""Label maps (V, D, H, W) of images (V, D, H, W) in [-1, 1]."""

BOTH_ABSENT = not_computed("the label is in neither mask")
_ABSENT = "the label is in neither mask of any image"


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
) -> dict[str, object]:
    """Segment generated images and compare the result with the masks they were made for.

    Args:
        segment: gives label maps of images in [-1, 1]; trained on real scans.
        images: (D, H, W) generated images, normalised intensities (0..1, clipped).
        labels: (D, H, W) uint8 label maps that they were made for.
        real_images: real scans that the segmenter has not seen, in the same unit.
        real_labels: their label maps.
        schema: the schema of all maps.

    Returns:
        ``n``, ``n_real``; ``labels``: per label ``dice`` and ``real_dice`` (means over the images
        that have one) and ``ratio``; ``mean`` of these over ``mean_over``, the labels that are not
        the container.

    Raises:
        MedpairError: if a set is empty, numbers differ, or a map is on another grid.
    """
    made = _set_dice(segment, images, labels, schema, "generated")
    real = _set_dice(segment, real_images, real_labels, schema, "real")
    found = {
        name: {
            "dice": mean_of((row[name] for row in made), _ABSENT),
            "real_dice": mean_of((row[name] for row in real), _ABSENT),
        }
        for name in schema.names[1:]
    }
    counted = [item.name for item in scored_labels(schema)]
    mean = {
        key: mean_of((found[name][key] for name in counted), _ABSENT)
        for key in ("dice", "real_dice")
    }
    return {
        "n": len(made),
        "n_real": len(real),
        "labels": {name: _with_ratio(numbers) for name, numbers in found.items()},
        "mean": _with_ratio(mean),
        "mean_over": counted,
    }


def _set_dice(
    segment: Segment,
    images: Sequence[Image],
    labels: Sequence[LabelMap],
    schema: LabelSchema,
    kind: str,
) -> list[dict[str, Value]]:
    if not images or len(images) != len(labels):
        raise MedpairError(
            f"images: {len(images)} {kind} with {len(labels)} masks, at least 1 and as many masks "
            "wanted; give a mask per image"
        )
    rows = []
    for image, label in zip(images, labels, strict=True):
        volume = torch.from_numpy(2 * np.clip(image, 0, 1) - 1).float()
        prediction = segment(volume[None])[0].cpu().numpy().astype(np.uint8)
        rows.append(label_dice(prediction, label, schema))
    return rows


def _with_ratio(numbers: Mapping[str, Value]) -> dict[str, Value]:
    dice, real = numbers["dice"], numbers["real_dice"]
    ratio: Value
    if isinstance(dice, str) or isinstance(real, str):
        ratio = dice if isinstance(dice, str) else real
    else:
        ratio = dice / real if real else not_computed("the segmenter fails on the real scans")
    return {**numbers, "ratio": ratio}
