"""Dataset enhancement: every training mask re-sampled with other informed slices.

The masks are those of real persons and, with "cross", so are the informed slices: what is generated
may come close to either, so the report measures it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from common.data.datasets import PairSet
from common.engines.batches import iteration_generator
from common.errors import MedpairError
from common.io.atomic import write_json
from common.metrics.alignment import Segment
from common.metrics.extractors import Features, MapExtractor
from common.metrics.image_report import ImageSet, judge_images
from common.metrics.slice_copies import AuditScan, copy_audit
from common.metrics.values import not_computed
from common.progress import Progress
from gem3d.informed import BodyRule, Choice, SliceSource, cross_slice, generated_slice
from gem3d.mask_augment import MaskAugmentation
from gem3d.resample import Generator, Target, Task, create_set, mismatch, write_missing
from gem3d.scans import LabelMap, ScanSet, SourceScan, open_scans

KINDS = ("cross", "generated")
NOBODY = not_computed("no scans were held back")


@dataclass(frozen=True)
class Enhancement:
    """Re-sample the training scans of a pair set K times into a new pair set.

    Args:
        generator: makes the images.
        dataset_dir: pair set of real scans; masks and informed slices are of its training split.
        output_dir: folder of the new pair set, new or begun with the same settings.
        weights: the generator's weight file.
        times: new pairs per mask; raised later, the first ones stay as they are.
        informed: "cross" takes slices of other persons, "generated" those of ``slices``.
        slices: the slice generator; None where there is none.
        augmentation: changes of the masks; None keeps them.
        schema: label schema of the weights.
        rule: how well the body of an informed slice must fit.
        seed: the run's seed; equal seeds give equal bytes on one machine.
        batch_volumes: volumes per batch.
        features: feature maps of images in [-1, 1] for the report; None leaves them out.
        segment: masks of images in [-1, 1] for the report; None leaves them out.
        extractor: name of ``features`` in the report.

    Source: GEM-3D, section 3.3 and Table 4.
    """

    generator: Generator
    dataset_dir: str
    output_dir: str
    weights: str
    times: int = 1
    informed: Literal["cross", "generated"] = "cross"
    slices: SliceSource | None = None
    augmentation: MaskAugmentation | None = None
    schema: str | None = None
    rule: BodyRule = field(default_factory=BodyRule)
    seed: int = 0
    batch_volumes: int = 4
    features: Features | None = None
    segment: Segment | None = None
    extractor: str = "encoder of our segmenter"

    def __post_init__(self) -> None:
        if self.times < 1:
            raise MedpairError(f"--times: {self.times}, wanted >= 1; ask for at least one")
        if self.informed not in KINDS:
            raise MedpairError(f"--informed: {self.informed!r}, wanted {' or '.join(KINDS)}")
        if self.informed == "generated" and self.slices is None:
            raise MedpairError(
                "--informed: generated, these weights hold no slice generator; use cross, or "
                "weights with one"
            )

    def __call__(self, progress: Progress | None = None) -> PairSet:
        """Make the missing pairs, then the report ``enhance.json``.

        Args:
            progress: called with ("volumes", finished, all).

        Returns:
            The pair set.

        Raises:
            MedpairError: for data that do not fit, or an output folder of other settings.
        """
        scans = open_scans(self.dataset_dir, self.schema)
        tasks = self._tasks(scans)
        pairset, new = write_missing(
            self.generator,
            tasks,
            lambda: create_set(self.output_dir, scans, self.weights, self._settings()),
            out=self.output_dir,
            seed=self.seed,
            batch_volumes=self.batch_volumes,
            progress=progress,
        )
        report = Path(self.output_dir) / "enhance.json"
        if new or not report.is_file():
            write_json(report, self.report(pairset, scans))
        return pairset

    def report(self, pairset: PairSet, scans: ScanSet) -> dict[str, Any]:
        """Return what ``enhance.json`` says of a finished pair set.

        Args:
            pairset: the new pairs.
            scans: the real scans.

        Returns:
            ``copies`` (see `copy_audit`), ``mismatch`` (see `gem3d.resample.mismatch`) and
            ``quality``: `judge_images` against the held-back scans.
        """
        made = [pairset.read(name) for name in pairset.ids()]
        records = [pairset.record(name) for name in pairset.ids()]
        audited = [
            AuditScan(
                pair.id,
                pair.image,
                pair.label,
                str(record["person"]),
                record["informed"].get("person"),
                int(record["informed"]["start"]),
            )
            for pair, record in zip(made, records, strict=True)
        ]
        real = {
            split: [AuditScan(s.id, s.image, s.label, s.person) for s in scans.of(split)]
            for split in ("training", "validation")
        }
        return {
            "times": self.times,
            "informed": self.informed,
            "copies": copy_audit(audited, real["training"], real["validation"]),
            "mismatch": mismatch(pairset),
            "quality": self._quality(audited, real["validation"], scans),
        }

    def _quality(
        self, made: list[AuditScan], held_out: list[AuditScan], scans: ScanSet
    ) -> dict[str, object] | str:
        if not held_out:
            return NOBODY
        extractors = [] if self.features is None else [MapExtractor(self.features, self.extractor)]
        return judge_images(
            _images(made),
            _images(held_out),
            scans.schema,
            extractors=extractors,
            segment=self.segment,
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "use": "enhance",
            "seed": self.seed,
            "informed": self.informed,
            "rule": asdict(self.rule),
            "batch_volumes": self.batch_volumes,
            "mask_augmentation": None if self.augmentation is None else self.augmentation.to_dict(),
        }

    def _tasks(self, scans: ScanSet) -> list[Task]:
        training = scans.of("training")
        if not training:
            raise MedpairError(f"{scans.name}: no training scans, wanted at least 2 persons")
        return [
            Task(
                f"{scan.id}_e{turn + 1:02d}",
                turn * len(training) + number,
                scan,
                turn,
                partial(self._target, scans, scan, turn * len(training) + number),
            )
            for turn in range(self.times)
            for number, scan in enumerate(training)
        ]

    def _target(self, scans: ScanSet, scan: SourceScan, volume: int) -> Target:
        label, record = self._mask(scans, scan, volume)
        return Target(label, self._choose(scans, scan, label, volume), record)

    def _mask(
        self, scans: ScanSet, scan: SourceScan, volume: int
    ) -> tuple[LabelMap, Mapping[str, Any]]:
        if self.augmentation is None:
            return scan.label, {}
        if scans.spacing is None:
            raise MedpairError(
                f"{scans.name}: voxel size differs from scan to scan, mask augmentation wants one; "
                "prepare the scans with --spacing"
            )
        generator = iteration_generator(self.seed, volume)
        changed = self.augmentation(scan.label, scans.schema, scans.spacing, generator)
        return changed.label, {"mask_augmentation": changed.record}

    def _choose(self, scans: ScanSet, scan: SourceScan, label: LabelMap, volume: int) -> Choice:
        if self.informed == "cross":
            training = scans.of("training")
            return cross_slice(
                label, scan.person, training, seed=self.seed, volume=volume, rule=self.rule
            )
        assert self.slices is not None
        return generated_slice(label, self.slices, seed=self.seed, volume=volume, rule=self.rule)


def _images(scans: list[AuditScan]) -> ImageSet:
    return ImageSet(
        [s.id for s in scans],
        [s.image for s in scans],
        [s.label for s in scans],
        [s.person for s in scans],
    )
