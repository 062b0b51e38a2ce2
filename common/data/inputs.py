"""The files of a scan, whatever their format: NIfTI and the like, or DICOM."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data.geometry import from_ras, same_place, to_ras
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


def read_image(scan: Scan, channel: int | str | None = None, modality: str | None = None) -> Volume:
    """Read the image of a scan, in its file's axis order.

    Args:
        scan: the files.
        channel: for 4D files, see `read_volume`.
        modality: of the images of a DICOM folder, where the scan names no series.

    Raises:
        MedpairError: for a damaged file or series, or one of another modality.
    """
    if not is_dicom(scan.image):
        return read_volume(scan.image, channel)
    from common.io.dicom import read_series

    return Volume(*read_series(_series(scan, modality)))


def image_geometry(scan: Scan, modality: str | None = None) -> tuple[tuple[int, ...], np.ndarray]:
    """Return size and affine of a scan's image from its headers; errors as `read_image`."""
    if not is_dicom(scan.image):
        return read_geometry(scan.image)
    from common.io.dicom import series_geometry

    return series_geometry(_series(scan, modality))


def _series(scan: Scan, modality: str | None) -> Series:
    from common.io.dicom import choose_series, find_series

    return choose_series(scan.image, find_series(scan.image), scan.series, modality)


def read_mask(
    scan: Scan, image: Volume, schema: LabelSchema, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read the mask of a scan in schema ids, in the axis order of its image's file.

    Args:
        scan: the files.
        image: the scan's image, on whose grid an RTSTRUCT is drawn.
        schema: its names, aliases and codes say what DICOM structures are.
        source: whose ids other files hold.

    Returns:
        uint8 ids of the image's shape, and what was assumed or left out.

    Raises:
        MedpairError: for a damaged file, unknown ids, or structures of which none is known.
    """
    if is_dicom(scan.label):
        return _dicom_mask(scan, image, schema)
    mask = read_volume(scan.label)
    ids, notes = integer_ids(mask.array, scan.label)
    try:
        label = schema.remap(ids, source)
    except MedpairError as error:
        raise MedpairError(f"{scan.label}: {error}") from error
    if is_dicom(scan.image):  # the two formats order axes differently
        label = _like(label, mask, image, scan)
    return label, (*mask.warnings, *notes)


def _dicom_mask(
    scan: Scan, image: Volume, schema: LabelSchema
) -> tuple[np.ndarray, tuple[str, ...]]:
    from common.io.dicom_labels import check_reference, matches, open_labels, paint

    uid = _series(scan, schema.modality).uid if is_dicom(scan.image) else None
    labels = open_labels(_label_file(scan, uid))
    if uid is not None:
        check_reference(labels, uid)
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
    mask, sizes = paint(labels, known, shape, image.affine)
    notes = [
        f"structure {number} is empty ({schema.names[known[number]]})"
        for number, size in sizes.items()
        if not size
    ]
    if others:
        numbers = ", ".join(str(one.number) for one in others[:20])
        notes.append(f"{len(others)} structures left out (numbers {numbers})")
    return mask, tuple(notes)


def _label_file(scan: Scan, uid: str | None) -> Path:
    """Return the one RTSTRUCT or SEG at a scan's label path."""
    if scan.label.is_file():
        return scan.label
    from common.io.dicom import find_series
    from common.io.dicom_labels import KINDS, open_labels

    files = [f for s in find_series(scan.label) if s.modality in KINDS for f in s.files]
    if len(files) > 1 and uid is not None:
        files = [file for file in files if uid in open_labels(file).series] or files
    if len(files) != 1:
        listed = ", ".join(file.name for file in files[:5])
        raise MedpairError(
            f"{scan.label}: {len(files)} RTSTRUCT or SEG files ({listed}), wanted one for the "
            "image; give a folder of labels with one per scan"
        )
    return files[0]


def _like(label: np.ndarray, mask: Volume, image: Volume, scan: Scan) -> np.ndarray:
    """Return a mask in the axis order of its image."""
    label_ras, affine = to_ras(label, mask.affine)
    image_ras, wanted = to_ras(image.array, image.affine)
    shape = (image_ras.shape[0], image_ras.shape[1], image_ras.shape[2])
    if label_ras.shape != shape or not same_place(shape, wanted, affine):
        raise MedpairError(
            f"{scan.label}: shape {label_ras.shape} in RAS or its place differ from the series in "
            f"{scan.image}, {shape}; resample the mask to its image"
        )
    return from_ras(label_ras, image.affine)


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files in a folder in the order of their names."""
    if path.is_file():
        return sha256(path)
    return _joined(sha256(file) for file in sorted(path.rglob("*")) if file.is_file())


def _joined(hashes: Iterable[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
