"""Where the slices of a DICOM series lie: sorted along their normal, one regular stack or refused.

Messages tell files, tags and numbers, never what a tag of the patient says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from common.errors import MedpairError

Array = npt.NDArray[np.float64]
Affine = npt.NDArray[np.float64]
Direction = npt.NDArray[np.float64]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
PARALLEL = 1e-3
"""Largest difference of the direction cosines of two slices."""
SKEW = 1e-2
"""Largest error of the length, and of the right angle, of direction cosines."""
TILT = 0.2
"""Largest angle between a stack and its normal, degrees: what rounded positions may come to."""
EVEN = 0.01
"""Largest difference of two slice distances, as a share of the usual one."""
SHOWN = 5


def stack(
    slices: Sequence[tuple[Path, Dataset]],
) -> tuple[list[tuple[Path, Dataset]], Affine]:
    """Sort single-frame images by their place and return the affine of the stack.

    Args:
        slices: files with their data sets.

    Returns:
        The slices along their normal, and the affine from (column, row, slice) to mm, RAS+.

    Raises:
        MedpairError: for tags that are missing or differ, duplicates, gaps, tilt, or one slice.
    """
    tags = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
    for tag in tags:
        lacking = [file for file, data in slices if not _given(data, tag)]
        if lacking:
            raise MedpairError(
                f"{named(lacking)}: no usable {tag}, wanted one in every slice; export the "
                "series again"
            )
    if len(slices) < 2:
        raise MedpairError(f"{slices[0][0]}: 1 slice, wanted a volume of 2 or more")
    for tag, tolerance in (
        ("Rows", 0.0),
        ("Columns", 0.0),
        ("PixelSpacing", 1e-3),
        ("ImageOrientationPatient", PARALLEL),
    ):
        values = np.array([np.atleast_1d(numbers(data, tag)) for _, data in slices])
        off = np.abs(values - np.median(values, axis=0)).max(axis=1) > tolerance
        if off.any():
            bad = [file for (file, _), wrong in zip(slices, off, strict=True) if wrong]
            raise MedpairError(
                f"{named(bad)}: {tag} differs from the other {len(slices) - len(bad)} slices; "
                "they are another series, move them away"
            )
    return _placed(slices)


def _placed(
    slices: Sequence[tuple[Path, Dataset]],
) -> tuple[list[tuple[Path, Dataset]], Affine]:
    along_row, along_column, normal = _axes(*slices[0])
    places = np.array([numbers(data, "ImagePositionPatient") for _, data in slices])
    heights = places @ normal
    order = np.argsort(heights, kind="stable")
    ordered = [slices[i] for i in order]
    steps = np.diff(heights[order])
    _check_steps([file for file, _ in ordered], steps)
    rows, columns = numbers(slices[0][1], "PixelSpacing")
    between = (places[order[-1]] - places[order[0]]) / (len(slices) - 1)
    off = np.linalg.norm(np.cross(between, normal))
    tilt = float(np.degrees(np.arctan2(off, between @ normal)))
    if tilt > TILT:
        raise MedpairError(
            f"{ordered[0][0].parent}: the stack is tilted by {tilt:.1f} degrees (gantry tilt), "
            "wanted slices that lie straight above each other; resample the series first"
        )
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = along_row * columns, along_column * rows, between
    lps[:3, 3] = places[order[0]]
    return ordered, LPS_TO_RAS @ lps


def _axes(file: Path, data: Dataset) -> tuple[Direction, Direction, Direction]:
    """Return the directions of rows, columns and slices, freed from rounding."""
    orientation = numbers(data, "ImageOrientationPatient")
    row, column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > SKEW or abs(row @ column) > SKEW:
        raise MedpairError(
            f"{file}: ImageOrientationPatient {orientation.round(3).tolist()}, wanted two "
            "perpendicular directions of length 1; export the series again"
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def _check_steps(files: Sequence[Path], steps: Array) -> None:
    usual = float(np.median(steps))
    same = np.flatnonzero(steps < max(1e-4, EVEN * usual))
    if same.size:
        pairs = [files[int(i) + side] for i in same for side in (0, 1)]
        raise MedpairError(
            f"{named(pairs)}: {same.size} slices lie at the place of another; move the "
            "duplicates away"
        )
    uneven = np.flatnonzero(np.abs(steps - usual) > EVEN * usual)
    if uneven.size:
        i = int(uneven[0])
        raise MedpairError(
            f"{files[i]} and {files[i + 1].name}: {steps[i]:.3f} mm apart, wanted {usual:.3f} mm "
            f"as the others ({uneven.size} such places): slices are missing or lie unevenly; copy "
            "the whole series, or resample it"
        )


def _given(data: Dataset, tag: str) -> bool:
    try:
        values = numbers(data, tag)
    except Exception:  # noqa: BLE001 - damaged tags raise many kinds
        return False
    wanted = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
    usable = values.size == wanted.get(tag, 1) and bool(np.isfinite(values).all())
    return usable and (tag not in ("Rows", "Columns", "PixelSpacing") or bool((values > 0).all()))


def numbers(data: Dataset, tag: str) -> npt.NDArray[np.float64]:
    """Return the numbers in a tag, at least one."""
    return np.atleast_1d(np.array(data.get(tag), dtype=np.float64))


def named(files: Iterable[Path]) -> str:
    """Return the names of files for a message, the first few of many."""
    names = list(dict.fromkeys(str(file) for file in files))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
