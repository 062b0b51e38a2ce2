"""DICOM series as volumes: which series a folder holds, their geometry, their voxels.

Sorted by geometry, never by name or number. What cannot be one regular stack is refused by name.
Messages tell files, tags and numbers, never what a tag of the patient says.

X columns, Y rows, Z slices of a series.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from common.errors import MedpairError

Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]

IMAGES = ("CT", "MR", "PT", "NM", "US", "OT")
ENHANCED = (
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
    "1.2.840.10008.5.1.4.1.1.130",  # Enhanced PET
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
    "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
)
NOT_DICOM = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".jpg", ".png", ".pdf", ".inf")
"""Endings of files that lie beside exports and are passed over."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
PARALLEL = 1e-3
"""Largest difference of the direction cosines of two slices, and of a stack from its normal."""
EVEN = 0.01
"""Largest difference of two slice distances, as a share of the usual one."""
SHOWN = 5


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
    groups: dict[str, list[tuple[Path, Dataset]]] = {}
    foreign = []
    for file in _files(path):
        try:
            head = _head(file)
        except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError):
            foreign.append(file)
            continue
        if head is not None:
            groups.setdefault(str(head.SeriesInstanceUID), []).append((file, head))
    if foreign:
        raise MedpairError(
            f"{path}: {len(foreign)} files are damaged or no DICOM ({_named(foreign)}); copy them "
            "again or move them away"
        )
    if not groups:
        raise MedpairError(f"{path}: no DICOM file in it; correct the path")
    found = [
        Series(
            uid,
            str(items[0][1].get("Modality", "")),
            tuple(file for file, _ in items),
            len({str(head.get("PatientID", "")) for _, head in items}),
        )
        for uid, items in groups.items()
    ]
    return tuple(sorted(found, key=lambda series: (series.modality, series.uid)))


def choose_series(path: str | Path, series: Sequence[Series], wanted: str | None = None) -> Series:
    """Return the one image series of a folder.

    Args:
        path: the folder, for errors.
        series: what it holds.
        wanted: SeriesInstanceUID, or a modality such as CT; None where there is only one.

    Raises:
        MedpairError: where none or several fit; the message lists them.
    """
    images = [one for one in series if one.is_image]
    fit = [one for one in images if wanted in (None, one.uid, one.modality)]
    if len(fit) != 1:
        listed = "; ".join(one.says() for one in images) or "none"
        raise MedpairError(
            f"{path}: {len(fit)} image series fit{'' if wanted is None else f' {wanted}'}, wanted "
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
    with _quiet():
        slices = [(file, read_file(file)) for file in series.files]
        if str(slices[0][1].get("SOPClassUID", "")) in ENHANCED:
            return _multi_frame(slices)
        ordered, affine = stack(slices)
        planes = [_pixels(file, data) for file, data in ordered]
    return np.stack(planes, axis=-1), affine, ()


def series_geometry(series: Series) -> tuple[tuple[int, int, int], Affine]:
    """Return the size (X, Y, Z) and affine of a series without its pixels; errors as above."""
    _one_patient(series)
    with _quiet():
        slices = [(f, pydicom.dcmread(f, stop_before_pixels=True)) for f in series.files]
        if str(slices[0][1].get("SOPClassUID", "")) in ENHANCED:
            array, affine, _ = _multi_frame([(f, read_file(f)) for f in series.files])
            return (array.shape[0], array.shape[1], array.shape[2]), affine
        ordered, affine = stack(slices)
    first = ordered[0][1]
    return (int(first.Columns), int(first.Rows), len(ordered)), affine


def stack(
    slices: Sequence[tuple[Path, Dataset]],
) -> tuple[list[tuple[Path, Dataset]], Affine]:
    """Sort single-frame images by their place and return the affine of the stack.

    Args:
        slices: files with their data sets.

    Returns:
        The slices along their normal, and the affine from (column, row, slice) to mm, RAS+.

    Raises:
        MedpairError: for tags that are missing or differ, duplicates, gaps, tilt, or one slice.
    """
    tags = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
    for tag in tags:
        lacking = [file for file, data in slices if not _given(data, tag)]
        if lacking:
            raise MedpairError(
                f"{_named(lacking)}: no usable {tag}, wanted one in every slice; export the "
                "series again"
            )
    if len(slices) < 2:
        raise MedpairError(f"{slices[0][0]}: 1 slice, wanted a volume of 2 or more")
    for tag, tolerance in (
        ("Rows", 0.0),
        ("Columns", 0.0),
        ("PixelSpacing", 1e-3),
        ("ImageOrientationPatient", PARALLEL),
    ):
        values = np.array([np.atleast_1d(_numbers(data, tag)) for _, data in slices])
        off = np.abs(values - np.median(values, axis=0)).max(axis=1) > tolerance
        if off.any():
            bad = [file for (file, _), wrong in zip(slices, off, strict=True) if wrong]
            raise MedpairError(
                f"{_named(bad)}: {tag} differs from the other {len(slices) - len(bad)} slices; "
                "they are another series, move them away"
            )
    return _placed(slices)


def _placed(
    slices: Sequence[tuple[Path, Dataset]],
) -> tuple[list[tuple[Path, Dataset]], Affine]:
    orientation = _numbers(slices[0][1], "ImageOrientationPatient")
    along_row, along_column = orientation[:3], orientation[3:]
    normal = np.cross(along_row, along_column)
    if abs(np.linalg.norm(normal) - 1) > 1e-2:
        raise MedpairError(
            f"{slices[0][0]}: ImageOrientationPatient {orientation.round(3).tolist()}, wanted two "
            "perpendicular directions of length 1; export the series again"
        )
    places = np.array([_numbers(data, "ImagePositionPatient") for _, data in slices])
    heights = places @ normal
    order = np.argsort(heights, kind="stable")
    ordered = [slices[i] for i in order]
    steps = np.diff(heights[order])
    _check_steps([file for file, _ in ordered], steps)
    rows, columns = _numbers(slices[0][1], "PixelSpacing")
    between = (places[order[-1]] - places[order[0]]) / (len(slices) - 1)
    tilt = np.degrees(np.arccos(np.clip(between @ normal / np.linalg.norm(between), -1, 1)))
    if tilt > np.degrees(PARALLEL) * 2:
        raise MedpairError(
            f"{ordered[0][0].parent}: the stack is tilted by {tilt:.1f} degrees (gantry tilt), "
            "wanted slices that lie straight above each other; resample the series first"
        )
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = along_row * columns, along_column * rows, between
    lps[:3, 3] = places[order[0]]
    return ordered, LPS_TO_RAS @ lps


def _check_steps(files: Sequence[Path], steps: Array) -> None:
    usual = float(np.median(steps))
    same = np.flatnonzero(steps < max(1e-4, EVEN * usual))
    if same.size:
        pairs = [files[int(i) + side] for i in same for side in (0, 1)]
        raise MedpairError(
            f"{_named(pairs)}: {same.size} slices lie at the place of another; move the "
            "duplicates away"
        )
    uneven = np.flatnonzero(np.abs(steps - usual) > EVEN * usual)
    if uneven.size:
        i = int(uneven[0])
        raise MedpairError(
            f"{files[i]} and {files[i + 1].name}: {steps[i]:.3f} mm apart, wanted {usual:.3f} mm "
            f"as the others ({uneven.size} such places): slices are missing; copy the whole series"
        )


def _pixels(file: Path, data: Dataset) -> npt.NDArray[np.float32]:
    """Return the rescaled pixels of a slice, (X, Y)."""
    if int(data.get("SamplesPerPixel", 1)) != 1 or int(data.get("NumberOfFrames", 1) or 1) != 1:
        raise MedpairError(f"{file}: colour or several frames, wanted one grey plane; leave it out")
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        raise MedpairError(f"{file}: MONOCHROME1 (inverted grey), wanted MONOCHROME2; convert it")
    slope, intercept = (
        float(data.get(f"Rescale{x}", d)) for x, d in (("Slope", 1), ("Intercept", 0))
    )
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise MedpairError(f"{file}: rescale {slope} x + {intercept}, wanted finite numbers, not 0")
    stored = _decoded(file, data)
    if stored.shape != (int(data.Rows), int(data.Columns)):
        raise MedpairError(f"{file}: {stored.shape} pixels, wanted {data.Rows} x {data.Columns}")
    return (stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)).T


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
    try:
        volume = Image.from_dataset(data, copy=False).get_volume(dtype=np.float32)
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


def _head(file: Path) -> Dataset | None:
    tags = ["SeriesInstanceUID", "Modality", "PatientID", "SOPClassUID", "MediaStorageSOPClassUID"]
    with _quiet():
        head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
    if "SeriesInstanceUID" not in head:
        raise InvalidDicomError(f"{file} has no SeriesInstanceUID")
    return head


def read_file(file: Path) -> Dataset:
    """Read a DICOM file whole.

    Raises:
        MedpairError: for a missing or damaged file.
    """
    try:
        with _quiet():
            return pydicom.dcmread(file)
    except Exception as error:  # pydicom raises many kinds for a truncated file
        reason = " ".join(str(error).split())[:100]
        raise MedpairError(f"{file}: damaged ({reason}); copy the file again") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back pydicom's warnings: they quote what stands in the tags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _given(data: Dataset, tag: str) -> bool:
    try:
        values = _numbers(data, tag)
    except (TypeError, ValueError):
        return False
    wanted = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
    usable = values.size == wanted.get(tag, 1) and bool(np.isfinite(values).all())
    return usable and (tag not in ("Rows", "Columns", "PixelSpacing") or bool((values > 0).all()))


def _numbers(data: Dataset, tag: str) -> npt.NDArray[np.float64]:
    return np.atleast_1d(np.array(data.get(tag), dtype=np.float64))


def _named(files: Iterable[Path]) -> str:
    names = list(dict.fromkeys(str(file) for file in files))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
