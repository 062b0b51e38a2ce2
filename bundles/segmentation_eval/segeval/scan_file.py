"""A new scan without a mask: onto the network's grid, and its predicted mask back to its own.

D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.data.datasets import Arrays, load_arrays
from common.data.geometry import Grid, from_ras, resample_labels, to_ras
from common.data.intensity import intensity_of
from common.data.labels import LabelSchema, load_schema
from common.data.prepare import Raw, Settings, place
from common.data.support import add_container
from common.data.views import from_dhw
from common.errors import MedpairError
from common.io.nifti import read_volume, stem


@dataclass(frozen=True)
class ScanArrays(Arrays):
    """One scan in memory, and where its voxels lie in its file; its mask is unknown.

    Attributes:
        grid: from the file's voxels, in RAS order, to the network's.
        affine: of the file.
    """

    grid: Grid | None = None
    affine: npt.NDArray[np.float64] | None = None

    def mask_on_file(self, mask_DHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a mask on the file's own grid, in its axis order.

        Args:
            mask_DHW: uint8, on the network's grid.
        """
        assert self.grid is not None
        assert self.affine is not None
        back = self.grid.inverse()
        mask = from_dhw(mask_DHW, self.schema.slice_axis)
        resampled = resample_labels(mask, back, self.schema.num_classes)
        return from_ras(resampled, self.affine).astype(np.uint8)


def open_scans(
    dataset_dir: str,
    split: str | None,
    image: str | None = None,
    schema: str = "brain4",
    schema_file: str | None = None,
    spacing: Sequence[float] = (4.0, 4.0, 4.0),
) -> Arrays:
    """Load the scans to segment: those of a pair set, or one scan file.

    Args:
        dataset_dir: pair set or phantoms, see `load_arrays`.
        split: "training", "validation" or None for both.
        image: `.nii`, `.nii.gz` or `.mgz` file; where it is given it alone is loaded, cropped to
            what the schema calls the body and normalised as `medpair prepare` does.
        schema: name of the label schema; this and the next two are used for a scan file alone.
        schema_file: the schema's YAML file; None for one that ships.
        spacing: voxel size (D, H, W) in mm that the network was trained at.

    Raises:
        MedpairError: for a missing or damaged file, or one without contrast.
    """
    if image is None:
        return load_arrays(dataset_dir, split)
    meaning = load_schema(schema_file or schema)
    volume = read_volume(image)
    array_ras, affine_ras = to_ras(volume.array, volume.affine)
    raw = Raw(array_ras, _body(array_ras, meaning), affine_ras, {}, ())
    d, h, w = (float(v) for v in spacing)
    settings = Settings(meaning, intensity_of(meaning), (d, h, w), None, "nonzero", None, "schema")
    try:
        placed = place(raw, settings)
    except MedpairError as error:
        raise MedpairError(f"{image}: {error}") from error
    return ScanArrays(
        (stem(Path(image)),),
        [placed.image],
        [np.zeros_like(placed.label)],
        meaning,
        (d, h, w),
        placed.grid,
        volume.affine,
    )


def _body(image_ras: npt.NDArray[np.float32], schema: LabelSchema) -> npt.NDArray[np.uint8]:
    """Where the container's rule sees the body; elsewhere the crop takes the non-zero voxels."""
    nothing = np.zeros(image_ras.shape, np.uint8)
    if schema.container is None or schema.container.support == "labels":
        return nothing
    return np.asarray(add_container(nothing, image_ras, schema))
