"""Checks of data before a network sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.data.labels import LabelSchema
from common.errors import MedpairError

if TYPE_CHECKING:
    from common.data.datasets import Pair, Size


def check_labels(label_VDHW: Tensor, num_classes: int) -> None:
    """Raise MedpairError unless all labels lie in 0..num_classes-1."""
    low, high = int(label_VDHW.min()), int(label_VDHW.max())
    if low < 0 or high >= num_classes:
        raise MedpairError(
            f"label: values {low}..{high}, wanted 0..{num_classes - 1}; use weights of "
            "this label schema"
        )


def whole_numbers(label: Tensor) -> Tensor:
    """Return labels as uint8.

    Raises:
        MedpairError: for fractions or values outside 0..255.
    """
    if label.is_floating_point() and bool((label != label.round()).any()):
        value = float(label[label != label.round()].flatten()[0])
        raise MedpairError(f"label: value {value:g}, wanted whole numbers; convert the mask")
    if label.numel() and not 0 <= int(label.min()) <= int(label.max()) <= 255:
        raise MedpairError(
            f"label: values {int(label.min())}..{int(label.max())}, wanted 0..255; check the mask"
        )
    return label.to(torch.uint8)


def check_schema(found: LabelSchema, schema: str, num_classes: int) -> None:
    """Raise MedpairError unless the data's schema is the one that the config names."""
    if found.name != schema or found.num_classes != num_classes:
        raise MedpairError(
            f"dataset: schema {found.name!r} ({found.num_classes} classes), the config is for "
            f"{schema!r} ({num_classes}); set schema and num_classes to fit"
        )


def check_pair(pair: Pair, schema: LabelSchema, size: Size | None) -> None:
    """Raise MedpairError unless a pair has one shape, finite values and labels of its schema.

    Args:
        pair: image and mask.
        schema: of the pair set.
        size: voxels (D, H, W) of the pair set; None where it differs from pair to pair.
    """
    shape = pair.label.shape
    if pair.image.shape != shape or len(shape) != 3 or (size and tuple(shape) != size):
        raise MedpairError(
            f"pair {pair.id}: image {pair.image.shape} and mask {shape}, wanted one shape "
            f"(D, H, W) {size or 'for both'}; correct the writer"
        )
    if not np.isfinite(pair.image).all():
        raise MedpairError(f"pair {pair.id}: the image holds NaN or infinity, wanted finite values")
    if int(pair.label.max(initial=0)) >= schema.num_classes:
        raise MedpairError(
            f"pair {pair.id}: label {int(pair.label.max())}, wanted 0..{schema.num_classes - 1} "
            f"of schema {schema.name}"
        )
    if not pair.id or "/" in pair.id or pair.id.startswith("."):
        raise MedpairError(f"pair '{pair.id}': wanted an id that can be a file name")
