"""DICOM series as volumes: which series a folder holds, their geometry, their voxels.

Sorted by geometry, never by name or number. What cannot be one regular stack is refused by name.
Messages tell files, tags and numbers, never what a tag of the patient says.

X columns, Y rows, Z slices of a series.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from common.errors import MedpairError
from common.io.dicom_stack import LPS_TO_RAS, Affine, named, stack

Array = npt.NDArray[Any]

IMAGES = ("CT", "MR", "PT", "NM", "US", "OT")
ENHANCED = (
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
    "1.2.840.10008.5.1.4.1.1.130",  # Enhanced PET
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
    "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
)
NOT_DICOM = (
    ".txt",
    ".log",
    ".md",
    ".csv",
    ".json",
    ".xml",
    ".html",
    ".jpg",
    ".png",
    ".pdf",
    ".inf",
)
"""Endings of files that lie beside exports and are passed over."""


@dataclass(frozen=True)
class Series:
    """The files of one series in a folder.

    Attributes:
        uid: SeriesInstanceUID.
        modality: such as CT, MR, SEG or RTSTRUCT.
        files: in the order of their names.
        patients: number of different PatientIDs in it.
    """

    uid: str
    modality: str
    files: tuple[Path, ...]
    patients: int = 1

    @property
    def is_image(self) -> bool:
        """Whether it shows an image."""
        return self.modality in IMAGES

    def says(self) -> str:
        """Return a line for listings."""
        return f"{self.modality} {self.uid} ({len(self.files)} files)"


def find_series(path: str | Path) -> tuple[Series, ...]:
    """List the series in a folder and the folders in it, or in one file.

    Args:
        path: folder or file.

    Returns:
        The series, sorted by modality and UID.

    Raises:
        MedpairError: for files that are no DICOM, with their names, or where there is none.
    """
    path = Path(path)
    if not path.exists():
        raise MedpairError(f"{path}: no such file or folder; correct the path")
    groups: dict[str, list[tuple[Path, _Head]]] = {}
    foreign = []
    for file in _files(path):
        try:
            head = _head(file)
        except Exception:  # noqa: BLE001 - pydicom raises many kinds for a damaged file
            foreign.append(file)
            continue
        groups.setdefault(head.uid, []).append((file, head))
    if foreign:
        raise MedpairError(
            f"{path}: {len(foreign)} files are damaged or no DICOM ({named(foreign)}); copy them "
            "again or move them away"
        )
    if not groups:
        raise MedpairError(f"{path}: no DICOM file in it; correct the path")
    found = [
        Series(
            uid,
            items[0][1].modality,
            tuple(file for file, _ in items),
            len({head.patient for _, head in items}),
        )
        for uid, items in groups.items()
    ]
    return tuple(sorted(found, key=lambda series: (series.modality, series.uid)))


def choose_series(
    path: str | Path,
    series: Sequence[Series],
    wanted: str | None = None,
    modality: str | None = None,
) -> Series:
    """Return the one image series of a folder.

    Args:
        path: the folder, for errors.
        series: what it holds.
        wanted: SeriesInstanceUID, or a modality such as CT; None where there is only one.
        modality: what the images should be where none is named; None takes any.

    Raises:
        MedpairError: where none or several fit; the message lists them.
    """
    images = [one for one in series if one.is_image]
    asked = wanted or modality
    fit = [one for one in images if asked in (None, one.uid, one.modality)]
    if len(fit) != 1:
        listed = "; ".join(one.says() for one in images) or "none"
        raise MedpairError(
            f"{path}: {len(fit)} image series fit{'' if asked is None else f' {asked}'}, wanted "
            f"one; choose by UID or modality (series): {listed}"
        )
    return fit[0]


def read_series(series: Series) -> tuple[Array, Affine, tuple[str, ...]]:
    """Read a series as a volume.

    Args:
        series: from `choose_series`.

    Returns:
        Voxels (X, Y, Z), float32, rescaled (CT: Hounsfield units); their affine to mm, RAS+,
        (4, 4); and what was assumed.

    Raises:
        MedpairError: for two patients, missing or contradicting tags, gaps, duplicates, tilt, or
            pixels that cannot be decoded; the message names the files.
    """
    _one_patient(series)
    with quiet():
        slices = [(file, read_file(file)) for file in series.files]
        if str(slices[0][1].get("SOPClassUID", "")) in ENHANCED:
            return _multi_frame(slices)
        ordered, affine = stack(slices)
        planes = [_pixels(file, data) for file, data in ordered]
    return np.stack(planes, axis=-1), affine, ()


def series_geometry(series: Series) -> tuple[tuple[int, int, int], Affine]:
    """Return the size (X, Y, Z) and affine of a series without its pixels; errors as above."""
    _one_patient(series)
    with quiet():
        slices = [(file, read_file(file, pixels=False)) for file in series.files]
        if str(slices[0][1].get("SOPClassUID", "")) in ENHANCED:
            array, affine, _ = _multi_frame([(f, read_file(f)) for f in series.files])
            return (array.shape[0], array.shape[1], array.shape[2]), affine
        ordered, affine = stack(slices)
    first = ordered[0][1]
    return (int(first.Columns), int(first.Rows), len(ordered)), affine


def _pixels(file: Path, data: Dataset) -> npt.NDArray[np.float32]:
    """Return the rescaled pixels of a slice, (X, Y)."""
    if _number(file, data, "NumberOfFrames", 1) != 1:
        raise MedpairError(f"{file}: several frames, wanted one plane; leave it out")
    _check_grey(file, data)
    slope = _number(file, data, "RescaleSlope", 1)
    intercept = _number(file, data, "RescaleIntercept", 0)
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise MedpairError(f"{file}: rescale {slope} x + {intercept}, wanted finite numbers, not 0")
    stored = _decoded(file, data)
    if stored.shape != (int(data.Rows), int(data.Columns)):
        raise MedpairError(f"{file}: {stored.shape} pixels, wanted {data.Rows} x {data.Columns}")
    return (stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)).T


def _check_grey(file: Path, data: Dataset) -> None:
    if _number(file, data, "SamplesPerPixel", 1) != 1:
        raise MedpairError(f"{file}: colour, wanted grey; leave it out")
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        raise MedpairError(f"{file}: MONOCHROME1 (inverted grey), wanted MONOCHROME2; convert it")


def _number(file: Path, data: Dataset, tag: str, usual: float) -> float:
    """Return the number in a tag; the usual one where there is none."""
    try:
        value = data.get(tag)
        return usual if value in (None, "") else float(value)
    except Exception as error:  # its text would quote the tag
        raise MedpairError(f"{file}: {tag} is no number; export the series again") from error


def _decoded(file: Path, data: Dataset) -> Array:
    try:
        return np.asarray(data.pixel_array)
    except Exception as error:  # decoders raise many kinds
        syntax = data.file_meta.get("TransferSyntaxUID")
        name = getattr(syntax, "name", "unknown transfer syntax")
        reason = " ".join(str(error).split())[:100]
        raise MedpairError(
            f"{file}: pixels in {name} cannot be read ({reason}); copy the file again, install a "
            "decoder (pip install pylibjpeg pylibjpeg-libjpeg), or decompress the series"
        ) from error


def _multi_frame(
    files: Sequence[tuple[Path, Dataset]],
) -> tuple[Array, Affine, tuple[str, ...]]:
    from highdicom import Image  # half a second, and rarely wanted

    file, data = files[0]
    if len(files) > 1:
        raise MedpairError(
            f"{file.parent}: {len(files)} multi-frame files in one series, wanted one; choose a "
            "folder with one of them"
        )
    _check_grey(file, data)
    try:
        # the rules of single frames: no real-world map, no inversion
        volume = Image.from_dataset(data, copy=False).get_volume(
            dtype=np.float32, apply_real_world_transform=False, apply_presentation_lut=False
        )
    except Exception as error:  # highdicom names many faults, pydicom's decoders others
        reason = " ".join(str(error).split())[:160]
        raise MedpairError(f"{file}: frames make no volume ({reason}); split the series") from error
    array = np.moveaxis(volume.array, (0, 1, 2), (2, 1, 0))
    affine = LPS_TO_RAS @ volume.affine[:, [2, 1, 0, 3]]
    return np.ascontiguousarray(array), affine, ()


def _one_patient(series: Series) -> None:
    if series.patients > 1:
        raise MedpairError(
            f"{series.files[0].parent}: series {series.uid} holds {series.patients} patients, "
            "wanted one; separate them"
        )


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        other = file.suffix.lower() in NOT_DICOM or file.name.upper() == "DICOMDIR"
        if file.is_file() and not hidden and not other:
            yield file


@dataclass(frozen=True)
class _Head:
    uid: str
    modality: str
    patient: str


def _head(file: Path) -> _Head:
    tags = ["SeriesInstanceUID", "Modality", "PatientID"]
    with quiet():
        head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
        if "SeriesInstanceUID" not in head:
            raise InvalidDicomError(f"{file} has no SeriesInstanceUID")
        uid, modality, patient = (str(head.get(tag, "")) for tag in tags)
    return _Head(uid, modality, patient)


def modalities(path: Path) -> Iterator[str]:
    """Yield the modality of each DICOM file in a folder as it is read; other files are passed."""
    for file in _files(path):
        with suppress(InvalidDicomError, OSError):  # named when the series are listed
            yield _head(file).modality


def read_file(file: Path, *, pixels: bool = True) -> Dataset:
    """Read a DICOM file.

    Args:
        file: its path.
        pixels: False leaves the pixels out.

    Raises:
        MedpairError: for a missing or damaged file.
    """
    try:
        with quiet():
            return pydicom.dcmread(file, stop_before_pixels=not pixels)
    except Exception as error:  # pydicom raises many kinds for a truncated file
        reason = " ".join(str(error).split())[:100]
        raise MedpairError(f"{file}: damaged ({reason}); copy the file again") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the warnings of pydicom and highdicom: they quote what stands in the tags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
