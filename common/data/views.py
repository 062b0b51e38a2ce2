"""The only place that maps between files (RAS) and networks (D x H x W).

The label schema names the axis along which slices are stacked, D. A file's axes run
towards Right, Anterior and Superior (nibabel's "RAS").
"""

from typing import Literal, TypeVar

import numpy as np
from torch import Tensor

from common.errors import MedpairError

SliceAxis = Literal["AP", "SI"]
T = TypeVar("T")
Array = TypeVar("Array", np.ndarray, Tensor)

_DHW_OF_RAS: dict[str, tuple[int, int, int]] = {"AP": (1, 2, 0), "SI": (2, 1, 0)}
_PLANES = ("sagittal", "coronal", "axial")  # normal to R, A and S


def _order(slice_axis: str) -> tuple[int, int, int]:
    if slice_axis not in _DHW_OF_RAS:
        raise MedpairError(
            f"slice_axis: '{slice_axis}' is unknown, wanted AP or SI; correct the schema"
        )
    return _DHW_OF_RAS[slice_axis]


def _transpose(array: Array, order: tuple[int, int, int]) -> Array:
    if array.ndim < 3:
        raise MedpairError(f"array: {array.ndim} axes, wanted at least 3; pass a volume")
    lead: int = array.ndim - 3
    axes = (*range(lead), lead + order[0], lead + order[1], lead + order[2])
    return array.permute(axes) if isinstance(array, Tensor) else array.transpose(axes)


def to_dhw(array_ras: Array, slice_axis: str) -> Array:
    """View a RAS volume as slices.

    Args:
        array_ras: (..., R, A, S), any leading batch axes.
        slice_axis: "AP" -> (..., A, S, R); "SI" -> (..., S, A, R).

    Returns:
        A transposed view (..., D, H, W); no data are copied.

    Raises:
        MedpairError: for an unknown axis or fewer than three axes.
    """
    return _transpose(array_ras, _order(slice_axis))


def from_dhw(array_dhw: Array, slice_axis: str) -> Array:
    """View slices as a RAS volume, the inverse of `to_dhw`.

    Args:
        array_dhw: (..., D, H, W), any leading batch axes.
        slice_axis: "AP" or "SI".

    Returns:
        A transposed view (..., R, A, S); no data are copied.

    Raises:
        MedpairError: for an unknown axis or fewer than three axes.
    """
    first, second, third = np.argsort(_order(slice_axis)).tolist()
    return _transpose(array_dhw, (first, second, third))


def triple_to_dhw(values_ras: tuple[T, T, T], slice_axis: str) -> tuple[T, T, T]:
    """Reorder three per-axis values (sizes, spacings) from R, A, S to D, H, W."""
    first, second, third = _order(slice_axis)
    return values_ras[first], values_ras[second], values_ras[third]


def triple_to_ras(values_dhw: tuple[T, T, T], slice_axis: str) -> tuple[T, T, T]:
    """Reorder three per-axis values (sizes, spacings) from D, H, W to R, A, S."""
    first, second, third = np.argsort(_order(slice_axis)).tolist()
    return values_dhw[first], values_dhw[second], values_dhw[third]


def ras_affine(
    size_dhw: tuple[int, int, int], spacing_dhw: tuple[float, float, float], slice_axis: str
) -> np.ndarray:
    """The affine of a generated volume: RAS axes, the volume's centre at the origin.

    Args:
        size_dhw: voxels (D, H, W).
        spacing_dhw: mm (D, H, W).
        slice_axis: "AP" or "SI".

    Returns:
        (4, 4) float64, voxel indices of the RAS file to mm.
    """
    size = np.array(triple_to_ras(size_dhw, slice_axis), dtype=np.float64)
    spacing = np.array(triple_to_ras(spacing_dhw, slice_axis), dtype=np.float64)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (size - 1) / 2
    return affine


def view_names(slice_axis: str) -> tuple[str, str, str]:
    """Return the planes normal to D, H and W: "axial", "coronal" and "sagittal" in some order."""
    first, second, third = _order(slice_axis)
    return _PLANES[first], _PLANES[second], _PLANES[third]


def to_slices(volume: Tensor, axis: int) -> Tensor:
    """View volumes (V, C, D, H, W) as slices normal to an axis.

    Args:
        volume: (V, C, D, H, W).
        axis: 0 for D, 1 for H, 2 for W.

    Returns:
        A view (V, n, C, a, b) with n slices along the axis; a and b are the other two axes in
        their order. No data are copied.
    """
    return volume.movedim(2 + axis, 1)


def from_slices(slices: Tensor, axis: int) -> Tensor:
    """View slices (V, n, C, a, b) as volumes (V, C, D, H, W), the inverse of `to_slices`."""
    return slices.movedim(1, 2 + axis)
