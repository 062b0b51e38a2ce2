"""Previews: small copies of a pair's files that a page can hold as text."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from common.data.datasets import Pair
from common.data.views import from_dhw

MOST_CHARACTERS = 480_000
"""Of both previews of a pair together."""
_PER_VOXEL = 0.25  # bytes that gzip leaves of a voxel at least, for the first try

Array = npt.NDArray[Any]


def previews(pair: Pair, slice_axis: str, most: int = MOST_CHARACTERS) -> tuple[str, str, int]:
    """Return image and mask of a pair as text, with fewer voxels where the pair is large.

    Args:
        pair: image and mask, (D, H, W).
        slice_axis: of the label schema.
        most: characters of both together.

    Returns:
        Image and mask as base64 of gzipped NIfTI files of uint8, and by how much each axis was
        shortened (1: not at all).
    """
    image, label = from_dhw(pair.image, slice_axis), from_dhw(pair.label, slice_axis)
    factor = max(1, int((image.size * _PER_VOXEL / most) ** (1 / 3)))
    while True:
        texts = (
            _text(means(image, factor), pair.affine, factor),
            _text(middles(label, factor), pair.affine, factor),
        )
        if sum(map(len, texts)) <= most or factor >= max(image.shape):
            return *texts, factor
        factor += 1


def means(array: Array, factor: int) -> Array:
    """Return the mean of each block of factor^3 voxels."""
    return array if factor == 1 else _blocks(array, factor).mean(axis=(1, 3, 5))


def middles(array: Array, factor: int) -> Array:
    """Return the middle voxel of each block of factor^3 voxels."""
    middle = factor // 2
    return _blocks(array, factor)[:, middle, :, middle, :, middle]


def _blocks(array: Array, factor: int) -> Array:
    """Return (X, factor, Y, factor, Z, factor); the last blocks repeat the last voxels."""
    filled = np.pad(array, [(0, -n % factor) for n in array.shape], mode="edge")
    x, y, z = (n // factor for n in filled.shape)
    return filled.reshape(x, factor, y, factor, z, factor)


def _text(array: Array, affine: npt.NDArray[np.floating], factor: int) -> str:
    grid = np.diag([factor, factor, factor, 1.0])
    grid[:3, 3] = (factor - 1) / 2  # the middle of the first block
    slope, start = 1.0, 0.0
    if array.dtype.kind == "f":
        start = float(array.min())
        slope = (float(array.max()) - start) / 255 or 1.0
        array = np.rint((array - start) / slope)
    file = nib.Nifti1Image(array.astype(np.uint8), affine @ grid)
    file.header.set_slope_inter(slope, start)
    return base64.b64encode(gzip.compress(file.to_bytes(), 6, mtime=0)).decode("ascii")
