"""Agreement of the surfaces of two masks: HD95 and surface Dice.

D, H, W volume size.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

from common.metrics.values import Value, not_computed, number

Mask = npt.NDArray[np.bool_]

BOTH_ABSENT = not_computed("the label is in neither mask")


def surface_scores(
    predicted: Mask, real: Mask, spacing: Sequence[float] | None, tolerance: float
) -> dict[str, Value]:
    """Compare the surface of a predicted mask with that of the real one.

    Args:
        predicted: (D, H, W), voxels of a label.
        real: the same of the reference.
        spacing: voxel size along D, H, W in mm; None counts voxels.
        tolerance: distance in mm up to which surfaces agree.

    Returns:
        ``hd95_mm`` and ``surface_dice``, each a number or the reason why there is none.
    """
    absent = _absent(predicted, real)
    if absent == BOTH_ABSENT:
        return {"hd95_mm": absent, "surface_dice": absent}
    if absent is not None:
        return {"hd95_mm": absent, "surface_dice": 0.0}
    near = _measured(compute_surface_dice, predicted, real, spacing, class_thresholds=[tolerance])
    return {"hd95_mm": hd95(predicted, real, spacing), "surface_dice": near}


def hd95(predicted: Mask, real: Mask, spacing: Sequence[float] | None) -> Value:
    """Return the 95th percentile of the distances between two surfaces, in mm.

    Args:
        predicted: (D, H, W), voxels of a label.
        real: the same of the reference.
        spacing: voxel size along D, H, W in mm; None counts voxels.
    """
    absent = _absent(predicted, real)
    if absent is not None:
        return absent
    return _measured(compute_hausdorff_distance, predicted, real, spacing, percentile=95)


def _absent(predicted: Mask, real: Mask) -> str | None:
    if predicted.any() and real.any():
        return None
    if not predicted.any() and not real.any():
        return BOTH_ABSENT
    return not_computed(
        f"the label is not in the {'real' if predicted.any() else 'predicted'} mask"
    )


def _measured(
    measure: Any, predicted: Mask, real: Mask, spacing: Sequence[float] | None, **options: Any
) -> Value:
    pair: list[Tensor] = [
        torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (predicted, real)
    ]
    with warnings.catch_warnings():  # MONAI 1.6 calls itself in a way that it deprecates
        warnings.simplefilter("ignore", FutureWarning)
        found = measure(*pair, include_background=True, spacing=spacing, **options)
    return number(float(found), "MONAI gives no finite number")
