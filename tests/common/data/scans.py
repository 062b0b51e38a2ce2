"""Small scans on disk for the tests of prepare: phantoms in any orientation, as files."""

import itertools
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

from common.data.geometry import from_ras
from common.data.labels import load_schema
from common.data.phantom import make_phantom
from common.data.views import from_dhw

SIZE = (22, 18, 20)
ORIENTATIONS = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def oriented(order: tuple[int, ...], flips: tuple[int, ...], tilt: float = 0.0) -> np.ndarray:
    """An affine with the given axis order and signs, spacing 1, 2, 3, tilted in two planes."""
    matrix = np.zeros((3, 3))
    for axis, (row, sign) in enumerate(zip(order, flips, strict=True)):
        matrix[row, axis] = sign * (axis + 1.0)
    c, s = np.cos(tilt), np.sin(tilt)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ matrix
    affine[:3, 3] = (10, -20, 30)
    return affine


@cache
def raw_pair(schema_name: str = "brain4", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A phantom with raw intensities (int16) and its mask, in RAS order."""
    schema = load_schema(schema_name)
    image, label = make_phantom(schema, SIZE, seed)
    low, high = (-1000.0, 1000.0) if schema_name == "thorax7" else (0.0, 1700.0)
    raw = np.rint(image * (high - low) + low).astype(np.int16)
    axis = schema.slice_axis
    return from_dhw(raw, axis), from_dhw(label, axis)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write a file with nibabel, not with our own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = nib.MGHImage if path.suffix == ".mgz" else nib.Nifti1Image
    nib.save(kind(array, np.eye(4) if affine is None else affine), path)
    return path


def write_scans(
    folder: Path,
    count: int = 2,
    affine: np.ndarray | None = None,
    schema_name: str = "brain4",
    suffix: str = ".nii.gz",
) -> Path:
    """`<i>_T1` and `<i>_labels` files; the arrays are reordered so that `affine` is true."""
    frame = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    for seed in range(count):
        image, label = raw_pair(schema_name, seed)
        save(folder / f"{seed}_T1{suffix}", from_ras(image, frame), frame)
        save(folder / f"{seed}_labels{suffix}", from_ras(label, frame), frame)
    return folder
