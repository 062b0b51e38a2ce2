"""How much of each slice the body (or brain) fills: all that a mask labels, container included.

D, H, W volume size; N slices.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from common.data.support import largest_component

LabelMap = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.float32]

DIM = 0.05
"""Normalised intensity up to which a voxel of an image without a mask counts as surroundings."""


def body_areas(label_DHW: LabelMap) -> npt.NDArray[np.int64]:
    """Return the labelled pixels of each slice, (D,)."""
    return np.asarray(np.count_nonzero(label_DHW, axis=(1, 2)))


def shown_slices(label_DHW: LabelMap, share: float) -> npt.NDArray[np.int64]:
    """Return the slices whose body fills at least a share of the fullest slice's area.

    Args:
        label_DHW: (D, H, W) uint8 label map.
        share: in (0, 1]; slices at the rim of a body say little about it.

    Returns:
        Rising slice numbers; none for an empty mask.
    """
    areas = body_areas(label_DHW)
    return np.flatnonzero((areas >= share * areas.max(initial=0)) & (areas > 0))


def body_of_image(image_HW: Image, dim: float = DIM) -> Mask:
    """Return the body in a slice that has no mask: its largest bright part, holes filled.

    Args:
        image_HW: (H, W) normalised intensities (about 0..1), the surroundings about 0.
        dim: intensities up to this one are surroundings.
    """
    bright = largest_component(ndimage.binary_opening(image_HW > dim))
    return np.asarray(ndimage.binary_fill_holes(bright))


def overlap(a: Mask, b: Mask) -> float:
    """Return the Dice of two bodies, 0..1; 0 where both are empty."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else 0.0
