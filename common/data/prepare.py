"""From a folder of scans and masks to a pair set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from common.data.datasets import Pair, PairSet, Size, Spacing
from common.data.geometry import (
    Grid,
    same_place,
    to_ras,
)
from common.data.inputs import hash_of, image_geometry, is_dicom, read_files
from common.data.intensity import intensity_of
from common.data.labels import IDENTITY, LabelSchema, load_schema
from common.data.matching import Scan, match_files, plan_scans
from common.data.placing import Raw, Settings, lost_voxels, place
from common.data.sources import find_source
from common.data.support import add_container
from common.data.views import triple_to_dhw
from common.errors import MedpairError
from common.io.manifest import versions
from common.io.nifti import read_geometry
from common.io.usage import Usage
from common.progress import Progress, silent


def prepare(
    images: str | Path,
    labels: str | Path,
    schema: str | Path | LabelSchema,
    out: str | Path,
    *,
    spacing: float | Sequence[float] | None = None,
    size: Sequence[int] | None = None,
    crop: str | None = None,
    channel: int | str | None = None,
    persons: str | Path | None = None,
    source: str | None = None,
    holdout: float = 0.2,
    seed: int = 0,
    image_pattern: str | None = None,
    label_pattern: str | None = None,
    in_plane: Sequence[int] | None = None,
    series: str | None = None,
    progress: Progress | None = None,
) -> PairSet:
    """Prepare real scans: canonical orientation, resampling, crop or pad, normalised intensity.

    Pairs that `out` already holds from the same files are kept; each further pair appears there
    whole or not at all.

    Args:
        images: folder of `.nii`, `.nii.gz` or `.mgz` images, or of DICOM folders, one per scan.
        labels: folder of masks of the same geometry; may be the same folder. DICOM images may have
            RTSTRUCT or SEG files, whose structures are known by the schema's aliases and codes.
        schema: name, file, or schema.
        out: the pair set's folder, new or begun with the same settings.
        spacing: voxel size in mm, one number or (D, H, W); None keeps each scan's.
        size: voxels (D, H, W) to crop and pad to, around the middle; None keeps what is there.
        crop: "nonzero" puts the middle of the brain or body (the schema's container; without one,
            of the non-zero voxels) into the middle and cuts what surrounds it.
        channel: which channel of 4D images, by index or name.
        persons: CSV with columns id, person and optionally split (training or validation).
        source: whose ids the masks use (`schema.sources`, or "schema"); None finds it out, and
            asks where two answers fit.
        holdout: share of persons kept back for validation where `persons` names no split.
        seed: for that draw.
        image_pattern: file name with `{id}`, see `match_files`.
        label_pattern: the same for masks.
        in_plane: resize each slice, or what `crop` leaves of it, to (H, W) pixels; the slices are
            kept, and their number. Not with `size`.
        series: which of several image series in a DICOM folder, by UID or modality.
        progress: called with ("prepare", pairs done, pairs in all), first with 0 done.

    Returns:
        The pair set.

    Raises:
        MedpairError: for every defect of the input, naming file, value seen, wanted and repair.
    """
    schema = schema if isinstance(schema, LabelSchema) else load_schema(schema)
    files = match_files(images, labels, image_pattern, label_pattern)
    scans = plan_scans(files, persons, holdout, seed, series)
    spacing_dhw = _spacing(spacing)
    _check_options(crop, size, in_plane)
    native = check_geometry(scans, schema)
    settings = Settings(
        schema,
        intensity_of(schema),
        spacing_dhw,
        _size(size),
        crop,
        channel,
        _source(scans, schema, source),
        (int(in_plane[0]), int(in_plane[1])) if in_plane is not None else None,
    )
    shared = None if in_plane is not None else spacing_dhw or native
    return _write_set(scans, settings, out, shared, progress or silent)


def _write_set(
    scans: Sequence[Scan],
    s: Settings,
    out: str | Path,
    spacing: Spacing | None,
    progress: Progress,
) -> PairSet:
    pairset: PairSet | None = (
        _create(out, s, spacing) if (Path(out) / "dataset.json").is_file() else None
    )
    progress("prepare", 0, len(scans))
    for done, scan in enumerate(scans, start=1):
        sums = {path: hash_of(path) for path in {scan.image, scan.label}}  # may be one folder
        inputs = {"image": scan.image.name, "image_sha256": sums[scan.image]}
        inputs |= {"label": scan.label.name, "label_sha256": sums[scan.label]}
        if pairset is None or not _is_done(pairset, scan, inputs):
            usage = Usage()
            pair, record = _prepare_scan(scan, s)
            # the folder appears with the first good pair: wrong input leaves nothing behind
            pairset = pairset or _create(out, s, spacing)
            with _nothing_empty(pairset):
                pairset.write(pair, {**record, "source": {**inputs, **record["source"]}})
            pairset.log({"stage": "prepare", "id": scan.id, **usage.measured()})
        progress("prepare", done, len(scans))
    assert pairset is not None  # match_files returns at least one scan
    return pairset


@contextmanager
def _nothing_empty(pairset: PairSet) -> Iterator[None]:
    """Leave no pair set without pairs where the first one cannot be written."""
    try:
        yield
    except OSError:
        if not pairset.ids():
            (pairset.dir / "dataset.json").unlink(missing_ok=True)
            for folder in (pairset.dir / "images", pairset.dir / "labels", pairset.dir):
                with suppress(OSError):  # not there, or something else is in it
                    folder.rmdir()
        raise


def _create(out: str | Path, s: Settings, spacing: Spacing | None) -> PairSet:
    options: dict[str, Any] = {"crop": s.crop, "channel": s.channel, "source": s.source}
    if s.in_plane is not None:
        options["in_plane"] = list(s.in_plane)
    return PairSet.create(out, s.schema, spacing, s.size, s.intensity, prepare=options)


def _is_done(pairset: PairSet, scan: Scan, inputs: dict[str, str]) -> bool:
    if scan.id not in pairset.manifest:
        return False
    record = pairset.record(scan.id)
    same = {key: record.get("source", {}).get(key) for key in inputs} == inputs
    return same and (record["person"], record["split"]) == (scan.person, scan.split)


def _prepare_scan(scan: Scan, s: Settings) -> tuple[Pair, dict[str, Any]]:
    raw = read_scan(scan, s)
    try:
        placed = place(raw, s)
    except MedpairError as error:
        raise MedpairError(f"{scan.image}: {error}") from error
    grid = placed.grid
    record = {
        "split": scan.split,
        "person": scan.person,
        "source": raw.stored,
        "intensity": {"lower": placed.lower, "upper": placed.upper},
        "grid": {"scale": list(grid.scale), "offset": list(grid.offset)},
        "warnings": [*raw.warnings, *_losses(raw.label, placed.label, grid, s.schema)],
        "versions": versions(),
    }
    return Pair(scan.id, placed.image, placed.label, grid.affine(raw.affine)), record


def read_scan(scan: Scan, s: Settings) -> Raw:
    """Read image and mask of one scan as they are, in RAS, the mask in schema ids with container.

    Args:
        scan: the files.
        s: schema, source of the mask's ids and channel.

    Raises:
        MedpairError: for a damaged file, unknown ids, or a mask without any of the labels.
    """
    files = read_files(scan, s.schema, s.source, s.channel)
    volume, label = files.image, files.label
    named = (label > 0) & (label != (s.schema.container_id or 0))
    if not named.any():
        wanted = ", ".join(x.name for x in s.schema.labels if x.id != s.schema.container_id)
        raise MedpairError(
            f"{scan.label}: empty mask, wanted voxels of at least one of {wanted}; remove the pair "
            "or choose another schema or source"
        )
    image, affine = to_ras(volume.array, volume.affine)
    label, _ = to_ras(label, files.label_affine)
    stored = {"shape": list(volume.array.shape), "affine": volume.affine.tolist()}
    full = add_container(label, image, s.schema, s.source)
    return Raw(image, full, affine, stored, (*volume.warnings, *files.notes))


def _source(scans: Sequence[Scan], schema: LabelSchema, source: str | None) -> str:
    """Whose ids the masks hold; DICOM structures have names instead."""
    files = [scan.label for scan in scans if not is_dicom(scan.label)]
    return find_source(files, schema, source) if files else IDENTITY


def _losses(before: np.ndarray, after: np.ndarray, grid: Grid, schema: LabelSchema) -> list[str]:
    """What was lost: labels that vanished in resampling, labelled voxels that were cut off."""
    counts = np.bincount(before.ravel(), minlength=schema.num_classes)
    kept = np.bincount(after.ravel(), minlength=schema.num_classes)
    gone = [n for i, n in enumerate(schema.names) if counts[i] and not kept[i] and i]
    notes = [f"label {name} vanished in resampling" for name in gone]
    cut = lost_voxels(before, grid)
    return [*notes, f"{cut} labelled voxels lie outside the size"] if cut else notes


def check_geometry(scans: Sequence[Scan], schema: LabelSchema) -> Spacing | None:
    """Compare the headers of all files before any work; the spacing that all share, D, H, W.

    Raises:
        MedpairError: for a mask of another shape or place than its image.
    """
    spacings = []
    for scan in scans:
        shape, affine = _ras_header(*image_geometry(scan, schema.modality))
        if is_dicom(scan.image) or is_dicom(scan.label):
            label_shape, label_affine = shape, affine  # compared when they are read
        else:
            label_shape, label_affine = _ras_header(*read_geometry(scan.label))
        if shape != label_shape:
            raise MedpairError(
                f"{scan.label}: shape {label_shape} in RAS, wanted {shape} as {scan.image.name}; "
                "resample the mask to its image"
            )
        if not same_place(shape, affine, label_affine):
            raise MedpairError(
                f"{scan.label}: affine {_rows(label_affine)}, wanted {_rows(affine)} as "
                f"{scan.image.name}; resample the mask or copy the image's header"
            )
        widths = np.linalg.norm(affine[:3, :3], axis=0)
        spacings.append(triple_to_dhw((widths[0], widths[1], widths[2]), schema.slice_axis))
    same = np.ptp(np.array(spacings), axis=0).max() < 1e-3
    return (float(spacings[0][0]), float(spacings[0][1]), float(spacings[0][2])) if same else None


def _ras_header(
    shape: tuple[int, ...], affine: np.ndarray
) -> tuple[tuple[int, int, int], np.ndarray]:
    voxels, affine = to_ras(np.broadcast_to(np.uint8(0), shape[:3]), affine)
    return (voxels.shape[0], voxels.shape[1], voxels.shape[2]), affine


def _rows(affine: np.ndarray) -> str:
    return str(affine[:3].round(2).tolist())


def _spacing(spacing: float | Sequence[float] | None) -> Spacing | None:
    if spacing is None:
        return None
    values = (
        [float(spacing)] * 3 if isinstance(spacing, int | float) else [float(v) for v in spacing]
    )
    if len(values) != 3 or not all(np.isfinite(v) and v > 0 for v in values):
        raise MedpairError(
            f"spacing: {spacing}, wanted one or three (D, H, W) positive numbers in mm"
        )
    return values[0], values[1], values[2]


def _size(size: Sequence[int] | None) -> Size | None:
    return (int(size[0]), int(size[1]), int(size[2])) if size is not None else None


def _check_options(
    crop: str | None, size: Sequence[int] | None, in_plane: Sequence[int] | None
) -> None:
    if in_plane is not None and (
        size is not None or len(in_plane) != 2 or min(int(v) for v in in_plane) < 1
    ):
        raise MedpairError(
            f"in_plane: {tuple(in_plane)} with size {size}, wanted two (H, W) positive numbers of "
            "pixels and no size; leave one out"
        )
    if crop not in (None, "nonzero"):
        raise MedpairError(f"crop: '{crop}', wanted nonzero or nothing")
    if size is not None and (len(size) != 3 or min(int(v) for v in size) < 1):
        raise MedpairError(
            f"size: {tuple(size)}, wanted three (D, H, W) positive numbers of voxels"
        )
