"""Scans on the grid and the intensity scale of a pair set."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.datasets import Size, Spacing
from common.data.geometry import (
    Box,
    Grid,
    Triple,
    bounding_box,
    plan_grid,
    resample_image,
    resample_labels,
)
from common.data.intensity import bounds, normalise
from common.data.labels import LabelSchema
from common.data.views import to_dhw, triple_to_dhw, triple_to_ras


@dataclass(frozen=True)
class Settings:
    """What all pairs of a set share; `spacing` in mm and `size` in voxels, both D, H, W.

    `in_plane`: pixels (H, W) that the box of interest is resized to, slice by slice.
    """

    schema: LabelSchema
    intensity: dict[str, Any]
    spacing: Spacing | None
    size: Size | None
    crop: str | None
    channel: int | str | None
    source: str
    in_plane: tuple[int, int] | None = None


@dataclass(frozen=True)
class Raw:
    """A scan in RAS: image raw values, label schema ids with container, affine, file geometry."""

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    stored: dict[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """A scan on a pair set's grid, (D, H, W); `lower` and `upper` are its raw 0 and 1."""

    image: np.ndarray
    label: np.ndarray
    grid: Grid
    lower: float
    upper: float


def place(raw: Raw, s: Settings) -> Placed:
    """Put a scan onto the grid and the intensity scale of a pair set.

    Args:
        raw: the scan.
        s: spacing, size, crop and intensity of the set.

    Raises:
        MedpairError: for an image without contrast.
    """
    lower, upper = bounds(raw.image, s.intensity)
    grid = plan(raw, s)
    scaled = normalise(raw.image, str(s.intensity["method"]), lower, upper)
    axis = s.schema.slice_axis
    image = np.ascontiguousarray(to_dhw(resample_image(scaled, grid), axis))
    return Placed(image, place_labels(raw.label, grid, s.schema), grid, lower, upper)


def place_labels(label_ras: np.ndarray, grid: Grid, schema: LabelSchema) -> np.ndarray:
    """Put schema ids in RAS onto a grid, uint8 (D, H, W)."""
    label = resample_labels(label_ras, grid, schema.num_classes)
    return np.ascontiguousarray(to_dhw(label, schema.slice_axis))


def plan(raw: Raw, s: Settings) -> Grid:
    """Choose the grid of a scan: spacing, size and crop as the settings say."""
    axis = s.schema.slice_axis
    box: Box | None = None
    if s.crop:
        identity = s.schema.container_id
        box = bounding_box(raw.label > 0 if identity else (raw.image != 0) | (raw.label > 0))
    widths = np.linalg.norm(raw.affine[:3, :3], axis=0).tolist()
    shape = (raw.label.shape[0], raw.label.shape[1], raw.label.shape[2])
    spacing, size = s.spacing, s.size
    if s.in_plane is not None:
        (x, y, z) = (b - a for a, b in box or [(0, n) for n in shape])
        extent: Triple = triple_to_dhw((x, y, z), axis)
        native: Spacing = triple_to_dhw((widths[0], widths[1], widths[2]), axis)
        spacing, size = _in_plane(extent, native, spacing, s.in_plane)
    return plan_grid(
        shape,
        (widths[0], widths[1], widths[2]),
        spacing=triple_to_ras(spacing, axis) if spacing else None,
        size=triple_to_ras(size, axis) if size else None,
        box=box,
    )


def _in_plane(
    extent: Triple, widths: Spacing, spacing: Spacing | None, in_plane: tuple[int, int]
) -> tuple[Spacing, Size]:
    """Spacing and size (D, H, W) at which a region of ``extent`` voxels fills the plane."""
    along = widths[0] if spacing is None else spacing[0]
    depth = max(1, int(np.ceil(extent[0] * widths[0] / along - 1e-6)))
    high, wide = (widths[i + 1] * extent[i + 1] / n for i, n in enumerate(in_plane))
    return (along, high, wide), (depth, *in_plane)


def lost_voxels(label_ras: np.ndarray, grid: Grid) -> int:
    """Count the labelled voxels of a mask that a grid leaves out."""
    region = []
    for n, end, scale, offset in zip(
        label_ras.shape, grid.shape_out, grid.scale, grid.offset, strict=True
    ):
        first, last = np.ceil(offset - scale / 2), np.floor(offset + scale * (end - 0.5))
        region.append(slice(max(0, int(first)), min(n, int(last) + 1)))
    return int(np.count_nonzero(label_ras)) - int(np.count_nonzero(label_ras[tuple(region)]))
