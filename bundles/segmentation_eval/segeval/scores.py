"""Agreement of a predicted with a reference mask: Dice, HD95 and surface Dice per label.

D, H, W volume size.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

from common.data.labels import LabelSchema
from common.metrics.alignment import BOTH_ABSENT, label_dice
from common.metrics.realism import scored_labels
from common.metrics.values import Value, mean_of, not_computed, number

LabelMap = npt.NDArray[np.uint8]
Spacing = tuple[float, float, float]
Scores = dict[str, Value]

NO_CASE = "no case has a number"


def score_masks(
    prediction: LabelMap,
    reference: LabelMap,
    schema: LabelSchema,
    spacing: Spacing | None,
    tolerance: float | None,
) -> dict[str, Scores]:
    """Compare a predicted mask with the reference, label by label.

    Args:
        prediction: (D, H, W) uint8 label map.
        reference: (D, H, W) uint8 label map.
        schema: the schema of both.
        spacing: voxel size along D, H, W in mm; only the surface measures use it.
        tolerance: distance in mm up to which surfaces agree; None leaves surface measures out.

    Returns:
        Per label name: ``dice``, and with a tolerance ``hd95_mm`` and ``surface_dice``; each a
        number or the reason why there is none.

    Raises:
        MedpairError: if the shapes differ.
    """
    dice = label_dice(prediction, reference, schema)
    scores: dict[str, Scores] = {name: {"dice": value} for name, value in dice.items()}
    if tolerance is not None:
        for item in schema.labels:
            masks = prediction == item.id, reference == item.id
            scores[item.name] |= _surface_scores(*masks, spacing, tolerance)
    return scores


def _surface_scores(
    predicted: npt.NDArray[np.bool_],
    real: npt.NDArray[np.bool_],
    spacing: Spacing | None,
    tolerance: float,
) -> Scores:
    if not predicted.any() and not real.any():
        return dict.fromkeys(("hd95_mm", "surface_dice"), BOTH_ABSENT)
    if not predicted.any() or not real.any():
        which = "real" if predicted.any() else "predicted"
        return {
            "hd95_mm": not_computed(f"the label is not in the {which} mask"),
            "surface_dice": 0.0,
        }
    pair = [torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (predicted, real)]
    return _surfaces(pair, spacing, tolerance)


def _surfaces(pair: list[Tensor], spacing: Spacing | None, tolerance: float) -> Scores:
    options: dict[str, Any] = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():  # MONAI 1.6 calls itself in a way that it deprecates
        warnings.simplefilter("ignore", FutureWarning)
        far = compute_hausdorff_distance(*pair, percentile=95, **options)
        near = compute_surface_dice(*pair, [tolerance], **options)
    return {"hd95_mm": _value(far), "surface_dice": _value(near)}


def _value(measured: Tensor) -> Value:
    return number(float(measured), "MONAI gives no finite number")


def summarise(cases: Mapping[str, Mapping[str, Scores]], schema: LabelSchema) -> dict[str, Any]:
    """Average the scores of some cases.

    Args:
        cases: what `score_masks` returns, by case.
        schema: the masks' schema.

    Returns:
        ``labels``: per label the mean of each measure over the cases that have it; ``mean``: the
        mean of those over the labels, the schema's container left out.
    """
    measures = next(iter(next(iter(cases.values())).values()))
    labels = {
        item.name: {
            measure: mean_of([case[item.name][measure] for case in cases.values()], NO_CASE)
            for measure in measures
        }
        for item in schema.labels
    }
    counted = [item.name for item in scored_labels(schema)]
    mean = {m: mean_of([labels[name][m] for name in counted], NO_CASE) for m in measures}
    return {"labels": labels, "mean": mean, "mean_over": counted}
