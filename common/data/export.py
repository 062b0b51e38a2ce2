"""Back from a pair set to scans as they were: intensity, geometry and orientation undone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation

from common.data.datasets import PairSet
from common.data.geometry import Grid, from_ras, resample_image, resample_labels
from common.data.intensity import denormalise
from common.data.views import from_dhw
from common.errors import MedpairError
from common.io.nifti import write_volume
from common.progress import Progress, silent

LAYOUTS: Mapping[str, tuple[str, str]] = {
    "nifti": ("{id}_image.nii.gz", "{id}_label.nii.gz"),
    "monailabel": ("{id}.nii.gz", "labels/final/{id}.nii.gz"),
}
"""Where image and mask of a pair go, by format."""


def export_files(
    pairset: PairSet,
    out: str | Path,
    ids: Sequence[str] | None = None,
    form: str = "nifti",
    progress: Progress | None = None,
) -> list[tuple[Path, Path]]:
    """Write pairs as NIfTI files, see `export_pair`.

    Args:
        pairset: the pair set.
        out: folder.
        ids: of the pairs; None takes all.
        form: a key of `LAYOUTS`: "nifti", or "monailabel", a folder of studies with their labels.
        progress: called with ("export", pairs done, pairs in all).

    Returns:
        The paths of images and masks.

    Raises:
        MedpairError: for another format, an unknown id or damaged files.
    """
    if form not in LAYOUTS:
        raise MedpairError(
            f"--format: {form}, wanted {', '.join(LAYOUTS)}, dicom, nnunet or compact"
        )
    chosen, told = list(ids or pairset.ids()), progress or silent
    written = []
    told("export", 0, len(chosen))
    for done, identity in enumerate(chosen, start=1):
        written.append(export_pair(pairset, identity, out, form))
        told("export", done, len(chosen))
    return written


def export_pair(
    pairset: PairSet, identity: str, path: str | Path, form: str = "nifti"
) -> tuple[Path, Path]:
    """Write one pair as image and mask files that lie where the scan lay.

    Args:
        pairset: the pair set.
        identity: the pair's id.
        path: folder; for "nifti" it gets `<id>_image.nii.gz` and `<id>_label.nii.gz`.
        form: a key of `LAYOUTS`.

    Returns:
        The paths of image (float32, raw intensities) and mask (uint8, schema ids). A prepared
        pair gets the shape, axis order and affine of its source; outside of what the pair covers
        the image has its lower bound and the mask is 0. A generated pair keeps its own grid;
        generated CT is in Hounsfield units, generated MRI (no raw scale) stays normalised.

    Raises:
        MedpairError: for an unknown id or damaged files.
    """
    image, label, affine = on_own_grid(pairset, identity)
    first, second = (Path(path) / name.format(id=identity) for name in LAYOUTS[form])
    write_volume(first, image, affine)
    write_volume(second, label.astype(np.uint8), affine)
    return first, second


def on_own_grid(pairset: PairSet, identity: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image, mask and affine of a pair where its scan lay; as `export_pair` writes them.

    Args:
        pairset: the pair set.
        identity: the pair's id.

    Raises:
        MedpairError: for an unknown id or damaged files.
    """
    pair, record = pairset.read(identity), pairset.record(identity)
    axis = pairset.schema.slice_axis
    image, label = from_dhw(pair.image, axis), from_dhw(pair.label, axis)
    affine = pair.affine
    source = record.get("source")
    if isinstance(source, dict) and "grid" in record and "shape" in source:
        affine = np.array(source["affine"], dtype=np.float64)
        back = _source_grid(record, image.shape, affine).inverse()
        image = from_ras(resample_image(image, back), affine)
        label = from_ras(resample_labels(label, back, pairset.schema.num_classes), affine)
    return denormalise(image, *raw_bounds(pairset, record)), label, affine


def _source_grid(record: dict[str, Any], shape: tuple[int, ...], affine: np.ndarray) -> Grid:
    order = io_orientation(affine)[:, 0].astype(int)
    stored = record["source"]["shape"]
    shape_ras = [0, 0, 0]
    for stored_axis, ras_axis in enumerate(order):
        shape_ras[ras_axis] = int(stored[stored_axis])
    x, y, z = shape_ras
    (sx, sy, sz), (ox, oy, oz) = record["grid"]["scale"], record["grid"]["offset"]
    return Grid((x, y, z), (shape[0], shape[1], shape[2]), (sx, sy, sz), (ox, oy, oz))


def raw_bounds(pairset: PairSet, record: Mapping[str, Any]) -> tuple[float, float]:
    """The raw values that a pair's 0 and 1 stand for; 0 and 1 where there is no raw scale.

    Args:
        pairset: the pair set.
        record: the pair's manifest line.
    """
    rule = pairset.intensity
    own = record.get("intensity") or (rule if rule.get("method") == "window" else {})
    return float(own.get("lower", 0.0)), float(own.get("upper", 1.0))
