"""A slice that the user names: of a pair in a set, or of an image file.

D, H, W volume size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.data.geometry import Grid, to_ras
from common.data.labels import LabelSchema
from common.data.placing import Raw, Settings, place
from common.data.support import add_container
from common.data.views import triple_to_dhw
from common.errors import MedpairError
from common.io.manifest import sha256
from common.io.nifti import SUFFIXES, read_volume
from gem3d.scans import Image, ScanSet

NEAR_UNIT = (-1.0, 2.0)
"""An image whose values all lie in here is no CT in Hounsfield units."""


@dataclass(frozen=True)
class ReferenceSlice:
    """A slice on the grid of a pair set.

    Attributes:
        name: of the scan and slice, for errors and the manifest.
        image: (H, W) normalised intensities.
        body: (H, W) the body that it shows.
        position: slice / D in [0, 1).
        record: where it comes from, for `dataset.json`.
    """

    name: str
    image: Image
    body: npt.NDArray[np.bool_]
    position: float
    record: dict[str, Any]


def reference_slice(reference: str | None, number: int | None, scans: ScanSet) -> ReferenceSlice:
    """Find the slice that the user names.

    Args:
        reference: id of a pair of the set, or an image file.
        number: slice of the pair; of a file counted along its own voxels from posterior (AP) or
            inferior (SI).
        scans: the pair set whose grid the slice is put on.

    Raises:
        MedpairError: for a missing reference, or a slice outside of it or without a body.
    """
    if reference is None or number is None:
        raise MedpairError(
            f"--reference: {reference}, --slice: {number}, wanted a pair's id or an image file, "
            "and a slice; give both"
        )
    if str(reference).lower().endswith(SUFFIXES):
        return _of_file(Path(reference), number, scans)
    scan = scans.scan(str(reference))
    check_slice(number, len(scan.label), scan.id)
    body = scan.label[number] > 0
    record = {"id": scan.id, "person": scan.person, "slice": number}
    position = number / len(scan.label)
    return _checked(ReferenceSlice(scan.id, scan.image[number], body, position, record))


def check_slice(number: int, depth: int, name: str) -> None:
    """Raise MedpairError for a slice number outside 0..depth-1."""
    if not 0 <= number < depth:
        raise MedpairError(f"--slice: {number}, wanted 0..{depth - 1} of {name}; choose another")


def slice_on_grid(
    number: int, shape: tuple[int, ...], grid: Grid, slice_axis: str, name: str
) -> int:
    """Return the slice of a grid that a file's slice lies nearest to.

    Args:
        number: slice of the file in RAS order.
        shape: the file's size in R, A, S.
        grid: where the grid's voxels lie in the file.
        slice_axis: "AP" or "SI".
        name: of the file, for errors.

    Raises:
        MedpairError: for a slice outside the file, or outside what the grid covers.
    """
    check_slice(number, triple_to_dhw((shape[0], shape[1], shape[2]), slice_axis)[0], name)
    offset, scale = (triple_to_dhw(v, slice_axis)[0] for v in (grid.offset, grid.scale))
    depth = triple_to_dhw(grid.shape_out, slice_axis)[0]
    found = round((number - offset) / scale)
    if not 0 <= found < depth:
        first, last = (max(0, round(offset + scale * k)) for k in (0, depth - 1))
        raise MedpairError(
            f"--slice: {number} of {name} lies outside the volume's grid; want {first}..{last}"
        )
    return found


def check_raw(image: Image, intensity: dict[str, Any], name: str) -> None:
    """Raise MedpairError for a CT that is normalised already."""
    low, high = float(image.min()), float(image.max())
    if intensity.get("method") == "window" and NEAR_UNIT[0] <= low and high <= NEAR_UNIT[1]:
        raise MedpairError(
            f"{name}: values {low:g}..{high:g}, wanted Hounsfield units; medpair export the pair "
            "first"
        )


def support_of(image_ras: Image, schema: LabelSchema, name: str) -> npt.NDArray[np.uint8]:
    """Return the schema's container where an image without a mask shows the body.

    Raises:
        MedpairError: where the schema knows the body by labels only.
    """
    if schema.container is None or schema.container.support == "labels":
        raise MedpairError(
            f"{name}: schema {schema.name} knows the body by labels only; give the id of a pair"
        )
    nothing = np.zeros(image_ras.shape, np.uint8)
    return np.asarray(add_container(nothing, image_ras, schema))


def _of_file(path: Path, number: int, scans: ScanSet) -> ReferenceSlice:
    volume = read_volume(path)
    image, affine = to_ras(volume.array, volume.affine)
    settings = Settings(
        scans.schema, dict(scans.intensity), scans.spacing, scans.size, scans.crop, None, "schema"
    )
    check_raw(image, settings.intensity, str(path))
    raw = Raw(image, support_of(image, scans.schema, str(path)), affine, {}, ())
    placed = place(raw, settings)
    found = slice_on_grid(number, image.shape, placed.grid, scans.schema.slice_axis, path.name)
    record = {"file": path.name, "sha256": sha256(path), "slice": number}
    position = found / len(placed.label)
    body = placed.label[found] > 0
    return _checked(ReferenceSlice(path.name, placed.image[found], body, position, record))


def _checked(reference: ReferenceSlice) -> ReferenceSlice:
    if not reference.body.any():
        raise MedpairError(
            f"--slice: slice {reference.record['slice']} of {reference.name} shows no body; "
            "choose one nearer to the middle"
        )
    return reference
