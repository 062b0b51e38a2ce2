"""The files of a scan, whatever their format: NIfTI and the like, or DICOM."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data.geometry import same_place, to_ras
from common.data.labels import LabelSchema
from common.data.matching import Scan
from common.data.sources import integer_ids
from common.errors import MedpairError
from common.io.manifest import sha256
from common.io.nifti import SUFFIXES, Volume, read_geometry, read_volume

if TYPE_CHECKING:
    from common.io.dicom import Series


def is_dicom(path: Path) -> bool:
    """Return whether a path is a DICOM folder or file: all that is no other volume file."""
    return not path.name.lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class ScanFiles:
    """What the files of a scan hold.

    Attributes:
        image: in its file's axis order.
        label: uint8 schema ids.
        label_affine: of ``label``, whose axis order may be another one than the image's.
        notes: what was assumed of the mask or left out.
    """

    image: Volume
    label: np.ndarray
    label_affine: np.ndarray
    notes: tuple[str, ...]


def read_files(
    scan: Scan, schema: LabelSchema, source: str, channel: int | str | None = None
) -> ScanFiles:
    """Read the image and the mask of a scan.

    Args:
        scan: the files.
        schema: its names, aliases and codes say what DICOM structures are; its modality is that of
            the images of a DICOM folder, where the scan names no series.
        source: whose ids other masks hold.
        channel: for 4D files, see `read_volume`.

    Raises:
        MedpairError: for a damaged file or series, one of another modality, unknown ids, or
            structures of which none is known.
    """
    if not is_dicom(scan.image):
        image, found = read_volume(scan.image, channel), None
    else:
        from common.io.dicom import choose_series, find_series, read_series

        listed = find_series(scan.image)
        series = choose_series(scan.image, listed, scan.series, schema.modality)
        image, found = Volume(*read_series(series)), _Found(series.uid, listed)
    if is_dicom(scan.label):
        label, notes = _dicom_mask(scan, image, schema, found)
        return ScanFiles(image, label, image.affine, notes)
    return _with_mask(scan, image, schema, source)


@dataclass(frozen=True)
class _Found:
    """The image series of a scan, and all that lies beside it."""

    uid: str
    listed: tuple[Series, ...]


def image_geometry(scan: Scan, modality: str | None = None) -> tuple[tuple[int, ...], np.ndarray]:
    """Return size and affine of a scan's image from its headers; errors as `read_files`."""
    if not is_dicom(scan.image):
        return read_geometry(scan.image)
    from common.io.dicom import choose_series, find_series, series_geometry

    listed = find_series(scan.image)
    return series_geometry(choose_series(scan.image, listed, scan.series, modality))


def _with_mask(scan: Scan, image: Volume, schema: LabelSchema, source: str) -> ScanFiles:
    mask = read_volume(scan.label)
    ids, notes = integer_ids(mask.array, scan.label)
    try:
        label = schema.remap(ids, source)
    except MedpairError as error:
        raise MedpairError(f"{scan.label}: {error}") from error
    if is_dicom(scan.image):  # of other files the headers were compared before
        _check_place(scan, mask, image)
    return ScanFiles(image, label, mask.affine, (*mask.warnings, *notes))


def _dicom_mask(
    scan: Scan, image: Volume, schema: LabelSchema, found: _Found | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    from common.io.dicom_labels import check_reference, matches, open_labels, paint

    labels = open_labels(_label_file(scan, found))
    if found is not None:
        check_reference(labels, found.uid)
    codes = {label.code.key: label.id for label in schema.labels if label.code}
    known = matches(labels.structures, schema.names_and_aliases, codes)
    others = [one for one in labels.structures if one.number not in known]
    if not known:
        # names are free text, which may tell a patient's: `medpair dicom` shows them on request
        raise MedpairError(
            f"{labels.path}: none of its {len(others)} structures is known to schema {schema.name} "
            f"({', '.join(schema.names_and_aliases)}); list them with medpair dicom, and add "
            "aliases to the schema"
        )
    shape = (image.array.shape[0], image.array.shape[1], image.array.shape[2])
    mask, drawn = paint(labels, known, shape, image.affine)
    notes = []
    for number, (voxels, gaps) in drawn.items():
        named = f"structure {number} ({schema.names[known[number]]})"
        if not voxels:
            notes.append(f"{named} is empty")
        elif gaps:
            notes.append(f"{named} has {gaps} empty slices between its slices")
    if others:
        numbers = ", ".join(str(one.number) for one in others[:20])
        notes.append(f"{len(others)} structures left out (numbers {numbers})")
    return mask, tuple(notes)


def _label_file(scan: Scan, found: _Found | None) -> Path:
    """Return the one RTSTRUCT or SEG at a scan's label path."""
    if scan.label.is_file():
        return scan.label
    from common.io.dicom import find_series
    from common.io.dicom_labels import KINDS, open_labels

    beside = scan.label == scan.image
    listed = found.listed if found is not None and beside else find_series(scan.label)
    files = [f for s in listed if s.modality in KINDS for f in s.files]
    if len(files) > 1 and found is not None:
        files = [file for file in files if found.uid in open_labels(file).series] or files
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5])
        raise MedpairError(
            f"{scan.label}: {len(files)} RTSTRUCT or SEG files ({names}), wanted one for the "
            "image; give a folder of labels with one per scan"
        )
    return files[0]


def _check_place(scan: Scan, mask: Volume, image: Volume) -> None:
    """Refuse a mask that does not lie on the voxels of its image, whatever the order of axes."""
    label_ras, affine = to_ras(mask.array, mask.affine)
    image_ras, wanted = to_ras(image.array, image.affine)
    shape = (image_ras.shape[0], image_ras.shape[1], image_ras.shape[2])
    if label_ras.shape != shape or not same_place(shape, wanted, affine):
        raise MedpairError(
            f"{scan.label}: shape {label_ras.shape} in RAS or its place differ from the series in "
            f"{scan.image}, {shape}; resample the mask to its image"
        )


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files in a folder in the order of their names."""
    if path.is_file():
        return sha256(path)
    return _joined(sha256(file) for file in sorted(path.rglob("*")) if file.is_file())


def _joined(hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
