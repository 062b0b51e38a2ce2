"""Canonical orientation, and resampling between grids whose axes are parallel.

A grid keeps the (possibly oblique) axes of the scan, so resampling is separable: one matrix per
axis, which holds the anti-aliasing filter and the interpolation together.
"""

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from common.errors import MedpairError

Triple = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
_TIE = 1e-4  # label fractions closer than this are equal: rounding must not choose
_RAS = np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float64)


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Permute and flip axes so that they run closest to Right, Anterior, Superior.

    Args:
        array: (X, Y, Z).
        affine: voxel index -> mm, (4, 4); may be oblique.

    Returns:
        The re-ordered view and its affine; every voxel keeps its place in mm.
    """
    orientation = io_orientation(affine)
    view = apply_orientation(array, orientation)
    return view, affine @ inv_ornt_aff(orientation, array.shape)


def from_ras(array_ras: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Undo `to_ras`: back to the axis order that `affine` had."""
    change = ornt_transform(_RAS, io_orientation(affine))
    return np.asarray(apply_orientation(array_ras, change))


@dataclass(frozen=True)
class Grid:
    """Where each voxel of an output grid lies in an input grid: input = offset + scale * output."""

    shape_in: Triple
    shape_out: Triple
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]

    def affine(self, affine_in: np.ndarray) -> np.ndarray:
        """The output grid's affine, from the input's."""
        step = np.diag([*self.scale, 1.0])
        step[:3, 3] = self.offset
        return affine_in @ step

    def inverse(self) -> "Grid":
        """The grid that leads from output voxels back to input voxels."""
        sx, sy, sz = self.scale
        ox, oy, oz = self.offset
        return Grid(
            self.shape_out, self.shape_in, (1 / sx, 1 / sy, 1 / sz), (-ox / sx, -oy / sy, -oz / sz)
        )


def plan_grid(
    shape: Triple,
    spacing_in: tuple[float, float, float],
    *,
    spacing: tuple[float, float, float] | None = None,
    size: Triple | None = None,
    box: Box | None = None,
) -> Grid:
    """Choose the output grid: its middle is the middle of the box.

    Args:
        shape: input size in voxels.
        spacing_in: input voxel size in mm.
        spacing: output voxel size in mm; None keeps the input's.
        size: output size in voxels; None takes as many as the box needs.
        box: (first, end) of the region of interest per axis; None is the whole input.

    Returns:
        The grid. Without a change of spacing it moves by whole voxels, so nothing is interpolated.
    """
    axes = []
    for axis, (first, end) in enumerate(box or tuple((0, n) for n in shape)):
        scale = 1.0 if spacing is None else spacing[axis] / spacing_in[axis]
        scale = 1.0 if abs(scale - 1.0) < 1e-4 else scale
        count = size[axis] if size else max(1, int(np.ceil((end - first) / scale - 1e-6)))
        offset = (first + end - 1) / 2 - scale * (count - 1) / 2
        axes.append((count, scale, float(np.floor(offset)) if scale == 1.0 else offset))
    (nx, sx, ox), (ny, sy, oy), (nz, sz, oz) = axes
    return Grid(shape, (nx, ny, nz), (sx, sy, sz), (ox, oy, oz))


def axis_matrix(n_in: int, n_out: int, scale: float, offset: float) -> np.ndarray:
    """Weights that resample one axis: Gaussian anti-aliasing, then linear interpolation.

    Args:
        n_in: input length.
        n_out: output length.
        scale: input voxels per output voxel; the Gaussian's full width at half maximum makes a
            voxel of one input width `scale` wide (none for scale <= 1).
        offset: input position of output voxel 0.

    Returns:
        float32 (n_out, n_in); rows sum to 1 inside the input and are 0 outside it.
    """
    position = offset + scale * np.arange(n_out)[:, None]
    index = np.arange(n_in)[None, :]
    inside = (position >= -0.5 - 1e-6) & (position <= n_in - 0.5 + 1e-6)
    hat = np.clip(1.0 - np.abs(np.clip(position, 0, n_in - 1) - index), 0.0, None)
    if scale > 1.0:
        sigma = np.sqrt(scale**2 - 1.0) / _FWHM
        blur = np.exp(-0.5 * ((index.T - index) / sigma) ** 2)
        hat = hat @ (blur / blur.sum(axis=1, keepdims=True))
    return np.asarray(hat * inside, dtype=np.float32)


def _whole_voxels(grid: Grid) -> bool:
    return all(
        s == 1.0 and float(o).is_integer() for s, o in zip(grid.scale, grid.offset, strict=True)
    )


def _shift(array: np.ndarray, grid: Grid) -> np.ndarray:
    out = np.zeros(grid.shape_out, dtype=array.dtype)
    source, target = [], []
    for n_in, n_out, offset in zip(grid.shape_in, grid.shape_out, grid.offset, strict=True):
        first, end = max(0, int(offset)), min(n_in, int(offset) + n_out)
        end = max(first, end)
        source.append(slice(first, end))
        target.append(slice(first - int(offset), end - int(offset)))
    out[tuple(target)] = array[tuple(source)]
    return out


def _matrices(grid: Grid) -> list[tuple[int, np.ndarray]]:
    """(axis, weights), the axis that shrinks most first: it saves the most work."""
    pairs = [
        (
            axis,
            axis_matrix(
                grid.shape_in[axis], grid.shape_out[axis], grid.scale[axis], grid.offset[axis]
            ),
        )
        for axis in range(3)
    ]
    return sorted(pairs, key=lambda pair: pair[1].shape[0] / pair[1].shape[1])


def _apply(array: np.ndarray, matrices: list[tuple[int, np.ndarray]]) -> np.ndarray:
    for axis, matrix in matrices:
        array = np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)
    return array


def resample_image(array: np.ndarray, grid: Grid) -> np.ndarray:
    """Resample intensities; outside the input they are 0.

    Args:
        array: (X, Y, Z), any real type.
        grid: from `plan_grid`, for the array's shape.

    Returns:
        float32, `grid.shape_out`.

    Raises:
        MedpairError: for an array of another shape.
    """
    _same_shape(array, grid)
    array = array.astype(np.float32, copy=False)
    return (
        _shift(array, grid)
        if _whole_voxels(grid)
        else _apply(array, _matrices(grid)).copy(order="C")
    )


def resample_labels(array: np.ndarray, grid: Grid, num_classes: int) -> np.ndarray:
    """Resample ids: each output voxel gets the label with the largest share in it.

    Args:
        array: uint8 ids (X, Y, Z), 0..num_classes - 1.
        grid: from `plan_grid`, for the array's shape.
        num_classes: background included.

    Returns:
        uint8, `grid.shape_out`; equal shares go to the lowest id that is not background.

    Raises:
        MedpairError: for an array of another shape.
    """
    _same_shape(array, grid)
    if _whole_voxels(grid):
        return _shift(array, grid)
    matrices = _matrices(grid)
    best = np.zeros(grid.shape_out, dtype=np.float32)
    winner = np.zeros(grid.shape_out, dtype=np.uint8)
    present = np.flatnonzero(np.bincount(array.ravel(), minlength=num_classes))
    for identity in (i for i in present if i):
        share = _apply((array == identity).astype(np.float32), matrices)
        better = share > best + _TIE
        best[better], winner[better] = share[better], identity
    foreground = _apply((array > 0).astype(np.float32), matrices)
    winner[best + _TIE < 1.0 - foreground] = 0
    return winner


def _same_shape(array: np.ndarray, grid: Grid) -> None:
    if array.shape != grid.shape_in:
        raise MedpairError(
            f"array: shape {array.shape}, wanted {grid.shape_in}; plan a grid for it"
        )


def bounding_box(mask: np.ndarray) -> Box:
    """(first, end) of the true voxels per axis; the whole array where there are none."""
    if not mask.any():
        return (0, mask.shape[0]), (0, mask.shape[1]), (0, mask.shape[2])
    spans = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        spans.append((int(hit[0]), int(hit[-1]) + 1))
    return spans[0], spans[1], spans[2]


def same_place(
    shape: Triple, affine: np.ndarray, other: np.ndarray, tolerance: float = 0.05
) -> bool:
    """Whether two affines put all corners of a grid in the same place.

    Args:
        shape: grid size in voxels.
        affine: (4, 4).
        other: (4, 4).
        tolerance: largest allowed distance of two corners, in voxel widths.
    """
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    corners[:, :3] *= np.array(shape) - 1
    distance = np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max()
    return bool(distance <= tolerance * np.linalg.norm(affine[:3, :3], axis=0).min())
