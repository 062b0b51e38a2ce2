"""De-enhancement: one informed slice for all masks of a pair set, so that all look like one scan.

Only the labels tie an image to its patient. Anatomy that no label names (vessels, small lesions,
the folds inside a label) is invented anew: a harmonised image shows the style of the reference and
the labels of the patient, and is no substitute for the scan (GEM-3D, section 4.4, says so too).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from common.data.datasets import PairSet
from common.errors import MedpairError
from common.io.atomic import write_json
from common.metrics.alignment import Segment, alignment
from common.metrics.fidelity import evaluate_images
from common.metrics.floor import ratio
from common.metrics.harmony import harmony
from common.metrics.image_report import NO_SEGMENTER
from common.metrics.values import not_computed
from common.progress import Progress
from gem3d.informed import BodyRule, Choice, given_slice
from gem3d.reference import ReferenceSlice, reference_slice
from gem3d.resample import Generator, Target, Task, create_set, mismatch, write_missing
from gem3d.scans import Image, ScanSet, SourceScan, open_scans

NO_HELD_OUT = not_computed("no scans were held back: the segmenter may have seen all of them")


@dataclass(frozen=True)
class Harmonisation:
    """Make the images of a pair set again from one informed slice.

    Args:
        generator: makes the images.
        dataset_dir: pair set of real scans; all of its masks get a new image.
        output_dir: folder of the new pair set, new or begun with the same settings.
        weights: the generator's weight file.
        reference: id of a pair, or an image file of the same kind of scan.
        slice: slice of the reference; of a file counted from posterior (AP) or inferior (SI).
        schema: label schema of the weights.
        rule: how well the slice's body must fit each mask.
        reach: share of the slices by which the slice may stand for another one of a mask, to find
            a body that fits.
        allow_mismatch: take the nearest body shape where none fits, instead of an error.
        seed: the run's seed; all volumes have noise of their own.
        batch_volumes: volumes per batch.
        segment: masks of images in [-1, 1] for the report; None leaves them out.

    Source: GEM-3D, section 4.4.
    """

    generator: Generator
    dataset_dir: str
    output_dir: str
    weights: str
    reference: str | None = None
    slice: int | None = None
    schema: str | None = None
    rule: BodyRule = field(default_factory=BodyRule)
    reach: float = 0.1
    allow_mismatch: bool = False
    seed: int = 0
    batch_volumes: int = 4
    segment: Segment | None = None

    def __call__(self, progress: Progress | None = None) -> PairSet:
        """Make the missing pairs, then the report ``harmonise.json``.

        All masks are compared with the slice first: where one does not fit, nothing is written.

        Args:
            progress: called with ("volumes", finished, all).

        Returns:
            The pair set; its ids, persons and splits are those of the scans.

        Raises:
            MedpairError: for a missing reference, a body that does not fit, or an output folder of
                other settings.
        """
        scans = open_scans(self.dataset_dir, self.schema)
        reference = reference_slice(self.reference, self.slice, scans)
        tasks = self._tasks(scans, reference)
        pairset, new = write_missing(
            self.generator,
            tasks,
            lambda: create_set(self.output_dir, scans, self.weights, self._settings(reference)),
            out=self.output_dir,
            seed=self.seed,
            batch_volumes=self.batch_volumes,
            progress=progress,
        )
        report = Path(self.output_dir) / "harmonise.json"
        if new or not report.is_file():
            write_json(report, self.report(pairset, scans))
        return pairset

    def report(self, pairset: PairSet, scans: ScanSet) -> dict[str, Any]:
        """Return what ``harmonise.json`` says of a finished pair set.

        Args:
            pairset: the new images.
            scans: the real scans, with the same ids.

        Returns:
            ``before`` and ``after`` (see `common.metrics.harmony`), ``ratio`` of their numbers;
            ``structure``: mean SSIM, MS-SSIM, PSNR of the new image to the scan, and how far the
            medians moved; ``segmentation``: `alignment` of a fixed segmenter on held-back scans,
            ``dice`` after and ``real_dice`` before; ``mismatch`` of the bodies.
        """
        old = {scan.id: scan for scan in scans.scans}
        ids = [name for name in pairset.ids() if name in old]
        real = [old[name] for name in ids]
        labels = [scan.label for scan in real]
        images = [pairset.read(name).image for name in ids]
        before = harmony([scan.image for scan in real], labels, scans.schema)
        after = harmony(images, labels, scans.schema)
        structure = evaluate_images(
            images, [scan.image for scan in real], labels, ids, scans.schema
        )
        return {
            "before": before,
            "after": after,
            "ratio": _ratios(before, after),
            "structure": {key: structure[key] for key in ("mean", "intensity")},
            "segmentation": self._segmentation(images, real, scans),
            "mismatch": mismatch(pairset),
        }

    def _segmentation(
        self, images: Sequence[Image], real: Sequence[SourceScan], scans: ScanSet
    ) -> dict[str, object] | str:
        if self.segment is None:
            return NO_SEGMENTER
        kept = [k for k, scan in enumerate(real) if scan.split == "validation"]
        if not kept:
            return NO_HELD_OUT
        labels = [real[k].label for k in kept]
        made, before = [images[k] for k in kept], [real[k].image for k in kept]
        return alignment(self.segment, made, labels, before, labels, scans.schema)

    def _settings(self, reference: ReferenceSlice) -> dict[str, Any]:
        return {
            "use": "harmonise",
            "seed": self.seed,
            "reference": reference.record,
            "rule": asdict(self.rule),
            "reach": self.reach,
            "allow_mismatch": self.allow_mismatch,
            "batch_volumes": self.batch_volumes,
        }

    def _tasks(self, scans: ScanSet, reference: ReferenceSlice) -> list[Task]:
        tasks = []
        for volume, scan in enumerate(scans.scans):
            target = Target(scan.label, self._choose(scan, reference), {})
            tasks.append(Task(scan.id, volume, scan, 0, partial(_the, target)))
        return tasks

    def _choose(self, scan: SourceScan, reference: ReferenceSlice) -> Choice:
        try:
            return given_slice(
                scan.label,
                reference.image,
                reference.body,
                source=reference.name,
                position=reference.position,
                reach=round(self.reach * len(scan.label)),
                allow_mismatch=self.allow_mismatch,
                rule=self.rule,
            )
        except MedpairError as error:
            raise MedpairError(f"pair {scan.id}: {error}") from error


def _the(target: Target) -> Target:
    return target


def _ratios(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return after / before of the histogram distance and of each label's spread."""
    spread = {
        name: ratio(after["median_spread"][name], value)
        for name, value in before["median_spread"].items()
    }
    distance = ratio(after["histogram_distance"], before["histogram_distance"])
    return {"median_spread": spread, "histogram_distance": distance}
