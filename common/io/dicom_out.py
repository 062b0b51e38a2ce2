"""A pair as a DICOM study: an image series, and its mask as a SEG.

Written are the attributes named here and no others, so nothing of a patient can come along.

R, A, S size in voxels towards right, anterior, superior; slices are axial.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.content import PixelMeasuresSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

import common
from common.data.codes import CATEGORIES, SIDES
from common.data.labels import Label, LabelSchema
from common.errors import MedpairError
from common.io.atomic import write_bytes
from common.io.dicom_stack import LPS_TO_RAS

Image = npt.NDArray[np.float32]
LabelMap = npt.NDArray[np.uint8]
Affine = npt.NDArray[np.float64]

MAKER = "medpair"
CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}
LONGEST = 55
"""Characters of an id: it and our name are one of at most 64."""
LEVELS = 1000
"""Least number of grey levels between the lowest and highest value of an MRI."""
LOWEST, HIGHEST = -32768, 32767
NETWORK = CodedConcept("123110", "DCM", "Artificial Intelligence")


@dataclass(frozen=True)
class Study:
    """What a study says of itself.

    Args:
        id: of the pair; it stands for the patient.
        schema: meaning of the labels; its modality is the images'.
        entropy: text that the UIDs are derived from; equal texts give equal UIDs.
        derivation: how the pair was made, in a sentence.
        synthetic: whether the image was generated, (0008,001C).
        drawn: whether the mask was generated or changed; a given one keeps its unknown maker.
        scale: stored value of 1 of the image; a power of ten.

    Raises:
        MedpairError: for an id that stands for no patient in DICOM.
    """

    id: str
    schema: LabelSchema
    entropy: str
    derivation: str
    synthetic: bool
    drawn: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.id) > LONGEST or set(self.id) & set("\\^=\n\r"):
            raise MedpairError(
                f"pair {self.id}: an id in DICOM has at most {LONGEST} characters, without \\, ^ "
                "and =; prepare it under another name"
            )

    def uid(self, *parts: object) -> str:
        """Return the UID of a part of the study."""
        return str(generate_uid(entropy_srcs=[self.entropy, *map(str, parts)]))


def write_study(
    folder: Path, study: Study, image_RAS: Image, label_RAS: LabelMap, affine: Affine
) -> list[Path]:
    """Write ``image/NNNN.dcm``, one per axial slice, and ``segmentation.dcm``.

    Args:
        folder: for the study.
        study: what it says of itself.
        image_RAS: CT in Hounsfield units, MRI in raw values or, without a raw scale, 0 to 1; it
            is stored times ``study.scale``.
        label_RAS: schema ids.
        affine: voxel index to mm, RAS+; the axes run closest to right, anterior, superior.

    Returns:
        The files.

    Raises:
        MedpairError: for values that 16 bits cannot hold, or a mask without any label.
    """
    if not label_RAS.any():
        raise MedpairError(f"{study.id}: empty mask, wanted a label; a SEG needs a segment")
    stored = _stored(study, np.flip(image_RAS, (0, 1)))
    label = np.flip(label_RAS, (0, 1))
    place = LPS_TO_RAS @ affine @ _flipped(image_RAS.shape)
    files, slices = [], []
    for z in range(stored.shape[2]):
        data = _slice(study, stored[:, :, z].T, place, z)
        slices.append(data)
        files.append(_save(folder / "image" / f"{z + 1:04d}.dcm", data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom speaks of attributes that are optional
        segmentation = _segmentation(study, slices, label)
    return [*files, _save(folder / "segmentation.dcm", segmentation)]


def _flipped(shape: Sequence[int]) -> Affine:
    """Return what turns indices towards left and posterior into those of the RAS array."""
    change = np.diag([-1.0, -1.0, 1.0, 1.0])
    change[:2, 3] = [shape[0] - 1, shape[1] - 1]
    return change


def _stored(study: Study, image: Image) -> npt.NDArray[np.int16]:
    """Return the stored values: Hounsfield units, or MRI times its scale, rounded."""
    values = np.rint(image * study.scale)
    if not LOWEST <= float(values.min()) <= float(values.max()) <= HIGHEST:
        raise MedpairError(
            f"{study.id}: intensities {values.min():g}..{values.max():g}, wanted "
            f"{LOWEST}..{HIGHEST}; export it as NIfTI"
        )
    stored: npt.NDArray[np.int16] = values.astype(np.int16)
    return stored


def _slice(study: Study, rows: npt.NDArray[np.int16], place: Affine, z: int) -> Dataset:
    modality = study.schema.modality
    data = Dataset()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CLASSES[modality]
    meta.MediaStorageSOPInstanceUID = UID(study.uid("image", z))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta = meta
    steps = np.linalg.norm(place[:3, :3], axis=0)
    entries: dict[str, Any] = {
        "SOPClassUID": CLASSES[modality],
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"],
        "SyntheticData": "YES" if study.synthetic else "NO",
        "DerivationDescription": study.derivation + _scale_of(study),
        "StudyInstanceUID": study.uid("study"),
        "SeriesInstanceUID": study.uid("series", "image"),
        "FrameOfReferenceUID": study.uid("frame"),
        "PositionReferenceIndicator": None,
        "PatientName": f"{study.id}^{MAKER}",
        "PatientID": study.id,
        **dict.fromkeys(("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")),
        **dict.fromkeys(("ReferringPhysicianName", "AccessionNumber")),
        **dict.fromkeys(("Laterality", "PatientPosition")),  # nobody lay in a scanner
        "StudyID": "1",
        "SeriesNumber": 1,
        "InstanceNumber": z + 1,
        "AcquisitionNumber": 1,
        "Modality": modality,
        "Manufacturer": MAKER,
        "ManufacturerModelName": MAKER,
        "SoftwareVersions": common.__version__,
        **(_OF_SYNTHETIC if study.synthetic else {}),
        "LossyImageCompression": "00",
        "ImagePositionPatient": _decimals((place @ [0, 0, z, 1])[:3]),
        "ImageOrientationPatient": _decimals(
            [*(place[:3, 0] / steps[0]), *(place[:3, 1] / steps[1])]
        ),
        "PixelSpacing": _decimals([steps[1], steps[0]]),
        "SliceThickness": _decimals([steps[2]])[0],
        "SpacingBetweenSlices": _decimals([steps[2]])[0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows.shape[0],
        "Columns": rows.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        **_OF_MODALITY[modality],
    }
    for name, value in entries.items():
        setattr(data, name, value)
    data.PixelData = np.ascontiguousarray(rows).astype("<i2").tobytes()
    return data


def mr_scale(image: Image) -> float:
    """Return the power of ten that spreads an MRI over enough whole numbers that 16 bits hold.

    Args:
        image: raw values, or 0 to 1.
    """
    span, largest = float(np.ptp(image)), float(np.abs(image).max())
    if not span:
        return 1.0
    wanted = np.ceil(np.log10(LEVELS / span))
    most = np.floor(np.log10(HIGHEST / largest))
    return float(10.0 ** min(max(0.0, wanted) if most >= 0 else most, most))


def _scale_of(study: Study) -> str:
    if study.scale == 1:
        return ""
    return f" Stored values are the image's times {study.scale:g}."


_OF_SYNTHETIC: Mapping[str, Any] = {
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "the image was generated",
    "BurnedInAnnotation": "NO",
}
_OF_MODALITY: Mapping[str, Mapping[str, Any]] = {
    "CT": {
        "KVP": None,
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "WindowCenter": 40,
        "WindowWidth": 400,
    },
    "MR": {
        "ScanningSequence": "RM",  # research mode: no scanner's sequence made it
        "SequenceVariant": "NONE",
        "ScanOptions": None,
        "MRAcquisitionType": "3D",
        "RepetitionTime": None,
        "EchoTime": None,
        "EchoTrainLength": None,
    },
}


def _decimals(values: Sequence[float] | npt.NDArray[np.float64]) -> list[str]:
    """Return numbers as DICOM decimal strings, at most 16 characters."""
    return [_decimal(float(value)) for value in values]


def _decimal(value: float) -> str:
    for digits in range(15, 5, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{value:.6g}"


def _segmentation(study: Study, slices: Sequence[Dataset], label: LabelMap) -> Segmentation:
    present = [one for one in study.schema.labels if bool((label == one.id).any())]
    planes = np.stack(
        [np.stack([one.id == label[:, :, z].T for one in present], -1) for z in range(len(slices))]
    )
    made = Segmentation(
        source_images=list(slices),
        pixel_array=planes.astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _described(one, n, study.drawn) for n, one in enumerate(present, start=1)
        ],
        series_instance_uid=study.uid("series", "segmentation"),
        series_number=2,
        sop_instance_uid=study.uid("segmentation"),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=common.__version__,
        device_serial_number="1",
        content_label="SEGMENTATION",
        content_creator_name=f"{MAKER}^",
        pixel_measures=_measures(slices[0]),
    )
    made.SyntheticData = "YES" if study.synthetic else "NO"
    _fix_chance(made, study)
    return made


def _fix_chance(made: Dataset, study: Study) -> None:
    """Replace times and drawn UIDs: equal pairs give equal bytes."""
    for name in ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime"):
        if name in made:
            setattr(made, name, "19700101" if name.endswith("Date") else "000000")
    for equipment in made.get("ContributingEquipmentSequence") or []:
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = "19700101000000"
    organisation = study.uid("dimensions")
    for name in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in made.get(name) or []:
            item.DimensionOrganizationUID = organisation


def _measures(data: Dataset) -> PixelMeasuresSequence:
    return PixelMeasuresSequence(
        pixel_spacing=[float(v) for v in data.PixelSpacing],
        slice_thickness=float(data.SliceThickness),
        spacing_between_slices=float(data.SpacingBetweenSlices),
    )


def _described(label: Label, number: int, drawn: bool) -> SegmentDescription:
    code = label.code
    assert code is not None  # looked after by who calls
    category = CATEGORIES[code.category]
    made = SegmentDescription(
        segment_number=number,
        segment_label=label.name,
        segmented_property_category=CodedConcept(category[0], "SCT", category[1]),
        segmented_property_type=CodedConcept(code.value, code.scheme, code.meaning),
        # who made a given mask is not known; MANUAL claims no algorithm
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC
        if drawn
        else SegmentAlgorithmTypeValues.MANUAL,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=MAKER, family=NETWORK, version=common.__version__
        )
        if drawn
        else None,
        display_color=CIELabColor.from_rgb(*label.colour),
    )
    if code.side is not None:
        value, meaning = SIDES[code.side]
        side = CodedConcept(value, "SCT", meaning)
        kinds = made.SegmentedPropertyTypeCodeSequence
        kinds[0].SegmentedPropertyTypeModifierCodeSequence = DicomSequence([side])
    return made


def _save(path: Path, data: Dataset) -> Path:
    content = BytesIO()  # pydicom puts a traceback into what a full disk says
    data.save_as(content, enforce_file_format=True)
    write_bytes(path, content.getvalue())
    return path
