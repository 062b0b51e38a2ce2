"""A new scan without a mask: onto the network's grid, and its predicted mask back to its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.datasets import Arrays, load_arrays
from common.data.studies import NetworkGrid, Place
from common.errors import MedpairError
from common.io.nifti import read_volume, stem


@dataclass(frozen=True)
class ScanArrays(Arrays):
    """One scan in memory, and where its voxels lie in its file; its mask is unknown.

    Attributes:
        place: the way back to the file's own grid.
    """

    place: Place | None = None


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
    grid, volume = NetworkGrid(schema_file or schema, spacing), read_volume(image)
    try:
        study = grid.scan(volume.array, volume.affine)
    except MedpairError as error:
        raise MedpairError(f"{image}: {error}") from error
    assert study.image_DHW is not None
    return ScanArrays(
        (stem(Path(image)),),
        [study.image_DHW],
        [np.zeros(study.image_DHW.shape, np.uint8)],
        grid.schema,
        grid.settings.spacing,
        study.place,
    )
