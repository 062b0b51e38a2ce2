"""Masks in DICOM: the structures of an RTSTRUCT, the segments of a SEG, on the grid of their image.

X, Y, Z size of the image in its file's axis order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from common.data.codes import SIDES
from common.errors import MedpairError
from common.io.dicom import quiet, read_file
from common.io.dicom_stack import LPS_TO_RAS

Mask = npt.NDArray[np.bool_]
Affine = npt.NDArray[np.float64]
Ring = npt.NDArray[np.float64]
Shape = tuple[int, int, int]
CodeKey = tuple[str, str, str | None]

KINDS = ("RTSTRUCT", "SEG")
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
BETWEEN = 0.3
"""How far a contour may lie from its slice, and a SEG's voxel from the image's, in voxels."""


@dataclass(frozen=True)
class Structure:
    """A structure or segment as its file names it.

    Attributes:
        number: ROINumber or SegmentNumber.
        name: ROIName or SegmentLabel; free text that may name a patient.
        code: (value, scheme, "left", "right" or None) of the segment's type; None without one.
    """

    number: int
    name: str
    code: CodeKey | None = None


@dataclass(frozen=True)
class LabelObject:
    """An RTSTRUCT or SEG file.

    Attributes:
        path: the file.
        modality: "RTSTRUCT" or "SEG".
        structures: what it holds, by number.
        series: SeriesInstanceUIDs that it refers to.
        data: the whole data set.
    """

    path: Path
    modality: str
    structures: tuple[Structure, ...]
    series: tuple[str, ...]
    data: Dataset

    @cached_property
    def _segmentation(self) -> Any:
        from highdicom.seg import Segmentation

        with quiet():
            return Segmentation.from_dataset(self.data, copy=False)

    def volume(self, number: int) -> tuple[Mask, Affine]:
        """Return a segment on the SEG's own grid, and its affine to mm, LPS.

        Raises:
            MedpairError: where its frames make no volume.
        """
        try:
            with quiet():
                volume = self._segmentation.get_volume(
                    segment_numbers=[number], combine_segments=True
                )
        except Exception as error:  # highdicom and pydicom name many faults
            reason = " ".join(str(error).split())[:160]
            raise MedpairError(
                f"{self.path}: segment {number} makes no volume ({reason}); export it again"
            ) from error
        return np.asarray(volume.array > 0), np.asarray(volume.affine)

    def masks(
        self, numbers: Sequence[int], shape: Shape, affine: Affine
    ) -> Iterator[tuple[int, Mask]]:
        """Yield number and mask (X, Y, Z) of structures on the grid of an image.

        Args:
            numbers: which; in this order.
            shape: of the image.
            affine: of the image, RAS+.

        Raises:
            MedpairError: where a structure does not lie on that grid.
        """
        draw = _contours if self.modality == "RTSTRUCT" else _segment
        for number in numbers:
            yield number, draw(self, number, shape, affine)


def open_labels(path: str | Path) -> LabelObject:
    """Read an RTSTRUCT or SEG file.

    Raises:
        MedpairError: for a damaged file, or another kind of object.
    """
    path = Path(path)
    data = read_file(path)
    modality = str(data.get("Modality", "") or "")
    if modality not in KINDS:
        raise MedpairError(f"{path}: modality {modality or 'unknown'}, wanted RTSTRUCT or SEG")
    try:
        with quiet():
            found = _rois(data) if modality == "RTSTRUCT" else _segments(data)
            referenced = tuple(_referenced(data))
    except Exception as error:  # damaged tags raise many kinds, whose texts quote them
        raise MedpairError(
            f"{path}: its structures cannot be read ({type(error).__name__}); export it again"
        ) from error
    if not found:
        raise MedpairError(f"{path}: no structure in it; export it again")
    return LabelObject(path, modality, tuple(found), referenced, data)


def check_reference(labels: LabelObject, uid: str) -> None:
    """Raise MedpairError unless an object refers to that image series, or says nothing of one."""
    if labels.series and uid not in labels.series:
        raise MedpairError(
            f"{labels.path}: refers to series {labels.series[0]}, the image is series {uid}; put "
            f"the {labels.modality} beside its own image"
        )


def _rois(data: Dataset) -> list[Structure]:
    rois = data.get("StructureSetROISequence") or []
    return [Structure(int(roi.ROINumber), str(roi.get("ROIName", ""))) for roi in rois]


def _segments(data: Dataset) -> list[Structure]:
    found = []
    for segment in data.get("SegmentSequence") or []:
        code = _code(segment)
        name = str(segment.get("SegmentLabel", ""))
        found.append(Structure(int(segment.SegmentNumber), name, code))
    return found


def _code(segment: Dataset) -> CodeKey | None:
    types = segment.get("SegmentedPropertyTypeCodeSequence") or []
    if not types or not types[0].get("CodeValue"):
        return None
    modifiers = types[0].get("SegmentedPropertyTypeModifierCodeSequence") or []
    given = {str(modifier.get("CodeValue")) for modifier in modifiers}
    side = next((name for name, (value, _) in SIDES.items() if value in given), None)
    return str(types[0].CodeValue), str(types[0].get("CodingSchemeDesignator", "")), side


def _referenced(data: Dataset) -> Iterator[str]:
    for frame in data.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                yield str(series.SeriesInstanceUID)
    for series in data.get("ReferencedSeriesSequence") or []:
        yield str(series.SeriesInstanceUID)


def _contours(labels: LabelObject, number: int, shape: Shape, affine: Affine) -> Mask:
    """Fill the contours of a structure; one in another is a hole."""
    to_voxel = np.linalg.inv(affine) @ LPS_TO_RAS
    planes: dict[int, dict[float, list[Ring]]] = {}
    for points_mm in _closed(labels, number):
        place = points_mm @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        z = _slice_of(labels, number, place[:, 2], shape[2])
        height = round(float(np.median(place[:, 2])), 2)
        rings = planes.setdefault(z, {}).setdefault(height, [])
        if not any(
            ring.shape == (len(place), 2) and np.allclose(ring, place[:, :2]) for ring in rings
        ):
            rings.append(place[:, :2])
    mask = np.zeros(shape, dtype=bool)
    for z, heights in planes.items():
        for rings in heights.values():  # of planes that fall into one slice the union
            mask[:, :, z] |= filled(rings, (shape[0], shape[1]))
    return mask


def _slice_of(
    labels: LabelObject, number: int, heights: npt.NDArray[np.float64], depth: int
) -> int:
    z = round(float(np.median(heights)))
    off = float(np.abs(heights - z).max())
    if off > BETWEEN:
        raise MedpairError(
            f"{labels.path}: a contour of structure {number} lies {off:.2f} slices off a slice of "
            "the image, wanted contours in its slices; export the structures with their own image"
        )
    if not 0 <= z < depth:
        raise MedpairError(
            f"{labels.path}: a contour of structure {number} lies outside of the image (slice {z} "
            f"of {depth}); give its own image"
        )
    return z


def filled(rings: Sequence[Ring], shape: tuple[int, int]) -> Mask:
    """Return the pixels whose middle lies within an odd number of rings.

    Args:
        rings: closed polygons (N, 2), in pixels; touching ones share no pixel and leave none out.
        shape: of the slice, (X, Y).

    Source: even-odd rule; edges count from their lower end, without the upper one.
    """
    inside = np.zeros(shape, dtype=bool)
    middles = np.arange(shape[0])[:, None]
    for ring in rings:
        for (x, y), (u, v) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y == v:
                continue
            first, last = np.ceil(min(y, v)), np.ceil(max(y, v)) - 1
            rows = np.arange(max(0, int(first)), min(shape[1] - 1, int(last)) + 1)
            crossing = x + (rows - y) / (v - y) * (u - x)
            inside[:, rows] ^= middles >= crossing[None, :]
    return inside


def _closed(labels: LabelObject, number: int) -> Iterator[npt.NDArray[np.float64]]:
    for roi in labels.data.get("ROIContourSequence") or []:
        if int(roi.get("ReferencedROINumber", -1)) != number:
            continue
        for contour in roi.get("ContourSequence") or []:
            if contour.get("ContourGeometricType") not in CLOSED:
                continue  # points and open lines enclose nothing
            values = np.array(contour.get("ContourData") or [], dtype=np.float64)
            if values.size % 3 or not np.isfinite(values).all():
                raise MedpairError(
                    f"{labels.path}: a contour of structure {number} has {values.size} numbers, "
                    "wanted x, y, z of each point; export it again"
                )
            if values.size >= 9:  # fewer points enclose nothing
                yield values.reshape(-1, 3)


def _segment(labels: LabelObject, number: int, shape: Shape, affine: Affine) -> Mask:
    volume, place = labels.volume(number)
    to_image = np.linalg.inv(affine) @ LPS_TO_RAS @ place
    turn = np.rint(to_image[:3, :3]).astype(int)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.shape) - 1)
    exact = corners @ to_image[:3, :3].T + to_image[:3, 3]
    origin = np.rint(to_image[:3, 3]).astype(int)
    off = float(np.abs(exact - (corners @ turn.T + origin)).max())
    if abs(round(float(np.linalg.det(turn)))) != 1 or off > BETWEEN:
        raise MedpairError(
            f"{labels.path}: segment {number} lies {off:.2f} voxels off those of the image, wanted "
            "the same voxels; resample it to its image"
        )
    found = np.argwhere(volume) @ turn.T + origin
    within = ((found >= 0) & (found < np.array(shape))).all(axis=1)
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(found[within].T)] = True
    return mask


def matches(
    structures: Sequence[Structure],
    names: Mapping[str, int],
    codes: Mapping[CodeKey, int],
) -> dict[int, int]:
    """Find the label of each structure, by its code or else by its name.

    Args:
        structures: of a file.
        names: label ids by name and alias; compared without case, blanks and signs.
        codes: label ids by `common.data.codes.Code.key`.

    Returns:
        {number: label id} of those that have one.
    """
    plain = {_plain(name): identity for name, identity in names.items()}
    found: dict[int, int] = {}
    for one in structures:
        identity = codes.get(one.code) if one.code else None
        identity = plain.get(_plain(one.name)) if identity is None else identity
        if identity is not None:
            found[one.number] = identity
    return found


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


class Drawn(NamedTuple):
    """What was drawn of a structure: its voxels, and the empty slices between its slices."""

    voxels: int
    gaps: int


def paint(
    labels: LabelObject, wanted: Mapping[int, int], shape: Shape, affine: Affine
) -> tuple[npt.NDArray[np.uint8], dict[int, Drawn]]:
    """Draw structures into a label map; where two overlap the smaller one is seen.

    Args:
        labels: the file.
        wanted: label ids by number of the structure.
        shape: of the image, (X, Y, Z).
        affine: of the image.

    Returns:
        uint8 (X, Y, Z) label ids, and what was drawn of each structure by number.

    Raises:
        MedpairError: where a structure does not lie on the image's grid.
    """
    masks = dict(labels.masks(list(wanted), shape, affine))
    drawn = {number: _drawn(mask) for number, mask in masks.items()}
    painted = np.zeros(shape, dtype=np.uint8)
    for number in sorted(masks, key=lambda n: -drawn[n].voxels):
        painted[masks[number]] = wanted[number]
    return painted, drawn


def _drawn(mask: Mask) -> Drawn:
    occupied = np.flatnonzero(mask.any(axis=(0, 1)))
    gaps = 0 if not occupied.size else int(occupied[-1] - occupied[0] + 1 - occupied.size)
    return Drawn(int(np.count_nonzero(mask)), gaps)
