"""One scan with its mask and an edit of it: in its own grid, on the generator's, and back.

D, H, W volume size on the generator's grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.data.geometry import from_ras, resample_image
from common.data.intensity import denormalise
from common.data.matching import Scan
from common.data.placing import Placed, Raw, Settings, place, place_labels
from common.data.prepare import check_geometry, read_scan
from common.data.sources import find_source
from common.data.support import add_container
from common.data.views import from_dhw, to_dhw, triple_to_dhw
from common.errors import MedpairError
from common.io.nifti import stem, write_volume
from common.metrics.locality import edited_region
from gem3d.edits import read_edit
from gem3d.reference import check_raw
from gem3d.scans import Image, LabelMap

Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Patient:
    """A scan and its edited mask.

    Attributes:
        name: of the image file.
        raw: as in the files, in RAS.
        edited_ras: the edited mask there, with container.
        placed: image and mask on the generator's grid.
        edited: (D, H, W) the edited mask on that grid.
        settings: schema, spacing, size and intensity of that grid.
        edit: what was done, for the report.
    """

    name: str
    raw: Raw
    edited_ras: LabelMap
    placed: Placed
    edited: LabelMap
    settings: Settings
    edit: dict[str, Any]

    @property
    def image(self) -> Image:
        """(D, H, W) normalised intensities, clipped to 0..1."""
        return np.asarray(np.clip(self.placed.image, 0, 1), np.float32)

    @property
    def label(self) -> LabelMap:
        """(D, H, W) the mask before the edit."""
        return self.placed.label

    def region(self, margin_mm: float) -> Mask:
        """Return the voxels (D, H, W) within a margin of the edit, on the generator's grid."""
        grid = self.placed.grid
        widths = np.linalg.norm(grid.affine(self.raw.affine)[:3, :3], axis=0).tolist()
        spacing = triple_to_dhw((widths[0], widths[1], widths[2]), self.settings.schema.slice_axis)
        return edited_region(self.label, self.edited, spacing, margin_mm)

    def write(self, image_DHW: Image, margin_mm: float | None, out: Path) -> tuple[Path, Path]:
        """Write ``image.nii.gz`` and ``mask.nii.gz`` in the scan's own grid and units.

        Args:
            image_DHW: normalised intensities on the generator's grid.
            margin_mm: voxels farther from the edit keep the scan's own values; None keeps none.
            out: the folder.
        """
        inverse = self.placed.grid.inverse()
        axis = self.settings.schema.slice_axis
        image = resample_image(from_dhw(image_DHW, axis), inverse)
        image = denormalise(image, self.placed.lower, self.placed.upper)
        if margin_mm is not None:
            widths = np.linalg.norm(self.raw.affine[:3, :3], axis=0).tolist()
            region = edited_region(self.raw.label, self.edited_ras, widths, margin_mm)
            image = np.where(region, image, self.raw.image.astype(np.float32))
        affine = np.array(self.raw.stored["affine"], dtype=np.float64)
        paths = out / "image.nii.gz", out / "mask.nii.gz"
        write_volume(paths[0], from_ras(image, affine), affine)
        write_volume(paths[1], from_ras(self.edited_ras, affine), affine)
        return paths


def read_patient(
    image: Path, mask: Path, edit: Path, settings: Settings, source: str | None = None
) -> Patient:
    """Read a scan, its mask and an edit of the mask.

    Args:
        image: image file in raw values.
        mask: mask of the same grid, in the schema's ids or those of one of its sources.
        edit: an edited mask file in the schema's ids, or a list of operations, see `read_edit`.
        settings: the generator's grid.
        source: whose ids the mask uses; None finds it out.

    Raises:
        MedpairError: for a defect of a file, or an edit that changes nothing.
    """
    schema = settings.schema
    scan = Scan(stem(image), image, mask, stem(image), "validation")
    check_geometry([scan], schema)
    settings = replace(settings, source=find_source([mask], schema, source))
    raw = read_scan(scan, settings)
    check_raw(raw.image, settings.intensity, str(image))
    label_DHW = np.ascontiguousarray(to_dhw(raw.label, schema.slice_axis))
    found = read_edit(edit, label_DHW, raw.affine, schema)
    edited_ras = from_dhw(found.label, schema.slice_axis)
    identity = schema.container_id
    if identity is not None and not (edited_ras == identity).any():  # a drawn mask may lack it
        edited_ras = add_container(edited_ras, raw.image, schema, settings.source)
    try:
        placed = place(raw, settings)
    except MedpairError as error:
        raise MedpairError(f"{image}: {error}") from error
    edited = place_labels(edited_ras, placed.grid, schema)
    changed = int(np.count_nonzero(edited_ras != raw.label))
    _check_effect(edit, changed, placed.label, edited, found.record)
    record = found.record | {"changed_voxels": changed}
    return Patient(image.name, raw, edited_ras, placed, edited, settings, record)


def _check_effect(
    edit: Path, changed: int, label: LabelMap, edited: LabelMap, record: dict[str, Any]
) -> None:
    if not changed:
        said = record.get("said", "no voxel differs from the mask")
        raise MedpairError(f"{edit}: {said}; want an edit that changes the mask")
    if np.array_equal(label, edited):
        raise MedpairError(
            f"{edit}: it changes {changed} voxels of the scan but none on the generator's grid; "
            "make it larger, or use a finer preset"
        )
