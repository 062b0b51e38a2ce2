"""DICOM files made by pydicom alone: image series, RTSTRUCT; with a planted patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

Array = npt.NDArray[Any]
PLANTED = "Planted^Patient"
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
SERIES = "1.2.3.4.5"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Change = Callable[[int, Dataset], None]


def write_series(
    folder: Path,
    array_XYZ: Array,
    affine: Array,
    change: Change | None = None,
    uid: str = SERIES,
    modality: str = "CT",
) -> list[Path]:
    """Write a volume (columns, rows, slices) as a series; files are named against their order."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = LPS @ affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    files = []
    for z in range(array_XYZ.shape[2]):
        data = _dataset(CT if modality == "CT" else MR)
        data.Modality, data.SeriesInstanceUID = modality, uid
        data.PixelSpacing = [steps[1], steps[0]]
        data.ImageOrientationPatient = [*(lps[:3, 0] / steps[0]), *(lps[:3, 1] / steps[1])]
        data.ImagePositionPatient = list((lps @ [0, 0, z, 1])[:3])
        data.SliceThickness = steps[2]
        data.Rows, data.Columns = array_XYZ.shape[1], array_XYZ.shape[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 1
        data.RescaleSlope, data.RescaleIntercept = 2.0, -1000.0
        stored = np.round((array_XYZ[:, :, z].T + 1000.0) / 2.0).astype(np.int16)
        data.PixelData = stored.tobytes()
        if change is not None:
            change(z, data)
        path = folder / f"{99 - z:03d}.dcm"
        data.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def write_multi_frame(path: Path, array_XYZ: Array, affine: Array) -> Path:
    """Write a volume as one Enhanced CT file, its frames against their order."""
    lps = LPS @ affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    data = _dataset("1.2.840.10008.5.1.4.1.1.2.1")
    data.Modality, data.SeriesInstanceUID = "CT", SERIES
    data.SeriesNumber = data.InstanceNumber = 1
    data.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    data.StudyID = data.AccessionNumber = data.StudyDate = data.StudyTime = ""
    data.PatientBirthDate = data.PatientSex = data.Manufacturer = ""
    data.Rows, data.Columns = array_XYZ.shape[1], array_XYZ.shape[0]
    data.NumberOfFrames = array_XYZ.shape[2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = 1
    measures, orientation, transform = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [steps[1], steps[0]]
    measures.SliceThickness = measures.SpacingBetweenSlices = steps[2]
    orientation.ImageOrientationPatient = [*(lps[:3, 0] / steps[0]), *(lps[:3, 1] / steps[1])]
    transform.RescaleSlope, transform.RescaleIntercept = 2.0, -1000.0
    transform.RescaleType = "HU"
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelValueTransformationSequence = Sequence([transform])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    frames, planes = [], []
    for number, z in enumerate(reversed(range(array_XYZ.shape[2])), start=1):
        position, content, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = list((lps @ [0, 0, z, 1])[:3])
        content.DimensionIndexValues = [number]
        frame.PlanePositionSequence = Sequence([position])
        frame.FrameContentSequence = Sequence([content])
        frames.append(frame)
        planes.append(np.round((array_XYZ[:, :, z].T + 1000.0) / 2.0).astype(np.int16))
    organisation, index = Dataset(), Dataset()
    organisation.DimensionOrganizationUID = index.DimensionOrganizationUID = "1.2.3.77"
    index.DimensionIndexPointer = 0x00200032
    index.FunctionalGroupPointer = 0x00209113
    data.DimensionOrganizationSequence = Sequence([organisation])
    data.DimensionIndexSequence = Sequence([index])
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data.PixelData = np.stack(planes).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_structures(
    path: Path, contours: dict[str, list[Array]], series: str | None = SERIES
) -> Path:
    """Write an RTSTRUCT: closed contours (N, 3), mm in RAS, by name."""
    data = _dataset(RTSTRUCT)
    data.Modality, data.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    data.StructureSetLabel = PLANTED
    rois, drawn = [], []
    for number, (name, rings) in enumerate(contours.items(), start=1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName = number, name
        rois.append(roi)
        one = Dataset()
        one.ReferencedROINumber = number
        one.ContourSequence = Sequence([_contour(ring) for ring in rings])
        drawn.append(one)
    data.StructureSetROISequence, data.ROIContourSequence = Sequence(rois), Sequence(drawn)
    if series is not None:
        of_series, of_study, frame = Dataset(), Dataset(), Dataset()
        of_series.SeriesInstanceUID = series
        of_study.RTReferencedSeriesSequence = Sequence([of_series])
        frame.RTReferencedStudySequence = Sequence([of_study])
        data.ReferencedFrameOfReferenceSequence = Sequence([frame])
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def _contour(ring_ras: Array) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(ring_ras)
    points = (ring_ras * [-1, -1, 1]).round(4)
    contour.ContourData = [float(v) for v in points.ravel()]
    return contour


def _dataset(sop_class: str) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = PLANTED, PLANTED
    data.StudyDescription = data.SeriesDescription = data.ProtocolName = PLANTED
    data.InstitutionName = data.ReferringPhysicianName = data.OperatorsName = PLANTED
    data.StudyInstanceUID, data.FrameOfReferenceUID = "1.2.3", "1.2.3.9"
    return data
