"""Agreement of a predicted with a reference mask: Dice, HD95 and surface Dice per label and group.

D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.data.labels import LabelSchema
from common.metrics.alignment import label_dice
from common.metrics.realism import scored_labels
from common.metrics.surfaces import BOTH_ABSENT, surface_scores
from common.metrics.values import Value, mean_of

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
    """Compare a predicted mask with the reference, label by label and group by group.

    Args:
        prediction: (D, H, W) uint8 label map.
        reference: (D, H, W) uint8 label map.
        schema: the schema of both.
        spacing: voxel size along D, H, W in mm; only the surface measures use it.
        tolerance: distance in mm up to which surfaces agree; None leaves surface measures out.

    Returns:
        Per name of a label or of a group of the schema, whose labels count as one: ``dice``, and
        with a tolerance ``hd95_mm`` and ``surface_dice``; each a number or the reason why there is
        none.

    Raises:
        MedpairError: if the shapes differ.
    """
    dice = label_dice(prediction, reference, schema)
    scores: dict[str, Scores] = {name: {"dice": value} for name, value in dice.items()}
    groups = {
        name: (np.isin(prediction, ids), np.isin(reference, ids))
        for name, ids in schema.groups.items()
    }
    scores |= {name: {"dice": _dice(*masks)} for name, masks in groups.items()}
    if tolerance is not None:
        labels = {i.name: (prediction == i.id, reference == i.id) for i in schema.labels}
        for name, masks in (labels | groups).items():
            scores[name] |= surface_scores(*masks, spacing, tolerance)
    return scores


def _dice(predicted: npt.NDArray[np.bool_], real: npt.NDArray[np.bool_]) -> Value:
    size = int(predicted.sum() + real.sum())
    return 2 * int((predicted & real).sum()) / size if size else BOTH_ABSENT


def summarise(cases: Mapping[str, Mapping[str, Scores]], schema: LabelSchema) -> dict[str, Any]:
    """Average the scores of some cases.

    Args:
        cases: what `score_masks` returns, by case.
        schema: the masks' schema.

    Returns:
        ``labels``: per label the mean of each measure over the cases that have it; ``mean``: the
        mean of those over the labels, the schema's container left out; where the schema has
        groups, ``groups`` and ``groups_mean`` likewise.
    """
    measures = list(next(iter(next(iter(cases.values())).values())))
    regions = {
        name: {m: mean_of([case[name][m] for case in cases.values()], NO_CASE) for m in measures}
        for name in (*schema.names[1:], *schema.groups)
    }

    def mean(names: list[str]) -> Scores:
        return {m: mean_of([regions[name][m] for name in names], NO_CASE) for m in measures}

    counted = [item.name for item in scored_labels(schema)]
    labels = {name: regions[name] for name in schema.names[1:]}
    report: dict[str, Any] = {"labels": labels, "mean": mean(counted), "mean_over": counted}
    if schema.groups:
        report["groups"] = {name: regions[name] for name in schema.groups}
        report["groups_mean"] = mean(list(schema.groups))
    return report
