"""Counterfactual images: the same patient with an edited mask.

The informed slice is the patient's own, one that is not edited. The image for the unedited mask is
made by the same noise, so that the effect of the edit can be told from the generator's own error.

V volumes, D, H, W volume size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from common.data.bodies import body_areas
from common.data.intensity import intensity_of
from common.data.labels import LabelSchema, load_schema
from common.data.pictures import image_rows, label_rows, save_rows
from common.data.placing import Settings
from common.errors import MedpairError
from common.io.atomic import write_json
from common.io.lock import exclusive
from common.io.manifest import sha256, versions
from common.metrics.alignment import Segment
from common.metrics.extractors import Features
from common.metrics.identity import identity_kept, same_scan
from common.metrics.image_report import NO_EXTRACTOR, NO_SEGMENTER
from common.metrics.locality import edit_alignment, locality
from common.progress import Progress, silent
from gem3d.generate import Context
from gem3d.informed import BodyRule, Choice, given_slice
from gem3d.patient import Mask, Patient, read_patient
from gem3d.reference import slice_on_grid
from gem3d.resample import Generator
from gem3d.scans import Image, LabelMap, Size, Spacing, open_scans

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """The images of a counterfactual, (D, H, W) normalised intensities."""

    unedited: Image
    result: Image


@dataclass(frozen=True)
class Counterfactual:
    """Make the image of a patient for an edited mask, and measure what the edit did.

    Args:
        generator: makes the images.
        output_dir: folder for ``image.nii.gz`` and ``mask.nii.gz`` in the scan's own grid and
            units, ``report.json`` and ``counterfactual.png``.
        weights: the generator's weight file.
        image: image file in raw values.
        mask: its mask, in the schema's ids or those of one of its sources.
        edit: an edited mask file in the schema's ids, or a list of operations as YAML.
        slice: the informed slice, counted in the file from posterior (AP) or inferior (SI); None
            takes the one that shows most of the body and is not edited.
        keep_outside: keep what lies farther than ``margin_mm`` from the edit: known latents in
            every step of the sampling (RePaint in plane), and the scan's own voxels in the end.
        margin_mm: how far around the changed voxels the image may change.
        schema: label schema of the weights.
        spacing: voxel size (D, H, W) in mm of the generator's grid; None keeps the scan's.
        size: voxels (D, H, W) of that grid; None keeps the scan's.
        crop: "nonzero" puts the body into the middle of the grid.
        source: whose ids the mask uses, as for `medpair prepare`; None finds it out.
        channel: which channel of a 4D image, by index or name.
        dataset_dir: pair set of other scans, for the identity; None leaves it out.
        person: whose scans of that set are not others'; the scan itself is found out.
        rule: how well the slice's body must fit the edited mask.
        allow_mismatch: use the slice although its body does not fit.
        seed: the run's seed.
        features: feature maps of images in [-1, 1] for the identity; None leaves it out.
        segment: masks of images in [-1, 1] for the alignment; None leaves it out.

    Source: GEM-3D, section 4.4.
    """

    generator: Generator
    output_dir: str
    weights: str
    image: str | None = None
    mask: str | None = None
    edit: str | None = None
    slice: int | None = None
    keep_outside: bool = False
    margin_mm: float = 8.0
    schema: str = "brain4"
    spacing: Spacing | None = None
    size: Size | None = None
    crop: str | None = "nonzero"
    source: str | None = None
    channel: int | str | None = None
    dataset_dir: str | None = None
    person: str | None = None
    rule: BodyRule = field(default_factory=BodyRule)
    allow_mismatch: bool = False
    seed: int = 0
    features: Features | None = None
    segment: Segment | None = None

    def __call__(self, progress: Progress | None = None) -> Path:
        """Make the counterfactual and its report.

        Args:
            progress: called with ("volumes", finished, 2).

        Returns:
            The image file.

        Raises:
            MedpairError: for a file that is missing or does not fit, or an edit without effect.
        """
        patient = read_patient(*self._files(), self._settings(), self.source)
        region, choice = patient.region(self.margin_mm), self._choose(patient)
        others = self._others(patient)
        report = progress or silent
        report("volumes", 0, 2)
        made = self._generate(patient, choice, region)
        report("volumes", 2, 2)
        found = self._report(patient, choice, region, made, others)
        out = Path(self.output_dir)
        with exclusive(out):
            margin = self.margin_mm if self.keep_outside else None
            path, _ = patient.write(made.result, margin, out)
            _draw(patient, made, out / "counterfactual.png")
            write_json(out / "report.json", found)
        return path

    def _files(self) -> tuple[Path, Path, Path]:
        for key, value in (("image", self.image), ("mask", self.mask), ("edit", self.edit)):
            if value is None:
                raise MedpairError(f"--{key}: none, wanted a file; give all of image, mask, edit")
        return Path(str(self.image)), Path(str(self.mask)), Path(str(self.edit))

    def _settings(self) -> Settings:
        schema = load_schema(self.schema)
        intensity = intensity_of(schema)
        return Settings(
            schema, intensity, self.spacing, self.size, self.crop, self.channel, "schema"
        )

    def _choose(self, patient: Patient) -> Choice:
        if self.slice is None:
            number = fullest_slice(patient.label, patient.edited)
        else:
            shape, axis = patient.raw.image.shape, patient.settings.schema.slice_axis
            number = slice_on_grid(self.slice, shape, patient.placed.grid, axis, patient.name)
        depth = len(patient.label)
        return given_slice(
            patient.edited,
            patient.image[number],
            patient.label[number] > 0,
            source=patient.name,
            position=number / depth,
            impose=bool((patient.label[number] == patient.edited[number]).all()),
            allow_mismatch=self.allow_mismatch,
            rule=self.rule,
        )

    def _generate(self, patient: Patient, choice: Choice, region: Mask) -> Made:
        """Make the images for both masks, with the same noise."""
        labels = torch.from_numpy(np.stack([patient.label, patient.edited]))
        context = None
        if self.keep_outside:
            image = torch.from_numpy(2 * patient.image - 1).float()
            context = Context(
                torch.stack([image, image]), torch.from_numpy(np.stack([~region, ~region]))
            )
        images = self.generator(
            labels, [choice.informed] * 2, volumes=[0, 0], seed=self.seed, context=context
        )
        unedited, result = ((images.float().cpu().numpy() + 1) / 2).clip(0, 1)
        if not np.isfinite(result).all():
            raise MedpairError("image: NaN in the result; check the weights")
        if self.keep_outside:
            unedited, result = (np.where(region, i, patient.image) for i in (unedited, result))
        return Made(unedited.astype(np.float32), result.astype(np.float32))

    def _report(
        self,
        patient: Patient,
        choice: Choice,
        region: Mask,
        made: Made,
        others: dict[str, Image],
    ) -> dict[str, Any]:
        masks = (patient.label, patient.edited, region)
        aligned: object = NO_SEGMENTER
        if self.segment is not None:
            schema = patient.settings.schema
            aligned = edit_alignment(self.segment, made.result, patient.image, *masks, schema)
        return {
            "image": {"file": patient.name, "sha256": sha256(str(self.image))},
            "mask": {"file": Path(str(self.mask)).name, "sha256": sha256(str(self.mask))},
            "edit": patient.edit,
            "informed": choice.record | {"imposed": choice.informed.impose},
            "keep_outside": self.keep_outside,
            "margin_mm": self.margin_mm,
            "seed": self.seed,
            "weights_sha256": sha256(self.weights),
            "locality": locality(made.result, patient.image, made.unedited, *masks),
            "alignment": aligned,
            "identity": self._identity(patient, made, others),
            "versions": versions("medpair", "torch", "monai", "numpy"),
        }

    def _others(self, patient: Patient) -> dict[str, Image]:
        """Return the scans of other persons, on the patient's grid."""
        if self.dataset_dir is None or self.features is None:
            return {}
        scans = open_scans(self.dataset_dir, self.schema).scans
        wrong = [s for s in scans if s.image.shape != patient.image.shape]
        if wrong:
            raise MedpairError(
                f"{self.dataset_dir}: pair {wrong[0].id} has size {wrong[0].image.shape}, wanted "
                f"{patient.image.shape}; give a pair set prepared for this preset"
            )
        return {
            s.id: s.image
            for s in scans
            if s.person != self.person and not same_scan(s.image, patient.image)
        }

    def _identity(self, patient: Patient, made: Made, others: dict[str, Image]) -> object:
        if self.features is None:
            return NO_EXTRACTOR
        source, far = self._seen(patient.image), {k: self._seen(i) for k, i in others.items()}
        return {
            name: identity_kept(self._seen(image), source, far)
            for name, image in (("result", made.result), ("unedited", made.unedited))
        }

    def _seen(self, image: Image) -> Floats:
        assert self.features is not None
        volume = torch.from_numpy(2 * np.clip(image, 0, 1) - 1).float()
        return np.asarray(self.features(volume[None])[0].cpu().numpy(), np.float32)


def fullest_slice(label: LabelMap, edited: LabelMap) -> int:
    """Return the slice that shows most of the body, of those that the edit leaves as they are.

    The fuller it is, the more it says of the patient; slices at the ends say little.

    Args:
        label: (D, H, W) uint8 mask.
        edited: the edited mask; where it changes every slice with a body, all of them count.
    """
    areas = np.asarray(body_areas(label))
    untouched = ~(label != edited).any(axis=(1, 2))
    return int((areas * untouched if areas[untouched].any() else areas).argmax())


def _draw(patient: Patient, made: Made, path: Path) -> None:
    """Rows: mask and scan, edited mask, image of the unedited mask, image of the edited one."""
    schema: LabelSchema = patient.settings.schema
    rows = label_rows(patient.label, schema) + image_rows(patient.image, schema)
    rows += label_rows(patient.edited, schema)
    rows += image_rows(made.unedited, schema) + image_rows(made.result, schema)
    save_rows(rows, path)
