"""What an evaluation of the refiner says: the images before and after, judged alike.

D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor

from common.data.datasets import Arrays, PairSet
from common.data.pictures import image_rows, label_rows, save_rows
from common.io.atomic import write_json
from common.metrics.alignment import Segment
from common.metrics.extractors import Features, MapExtractor
from common.metrics.image_report import ImageSet, judge_images

Images = Sequence[np.ndarray]


class RefinementReport:
    """Judge images before and after the refinement, after an evaluator's run.

    Writes ``evaluation.json`` with `judge_images` of both, and ``evaluation.png``: rows of the
    mask, the real scan where there is one, the image before and the image after.

    Args:
        data: masks and images to refine.
        data_dir: the pair set that they come from.
        real: real scans that were held back.
        real_dir: the pair set that they come from.
        output_dir: folder of the report.
        features: feature maps of images in [-1, 1] for the feature distance; None leaves it out.
        segment: masks of images in [-1, 1] for the alignment; None leaves it out.
        extractor: name of ``features`` in the report.
        volumes: volumes shown in the picture.
    """

    def __init__(
        self,
        data: Arrays,
        data_dir: str,
        real: Arrays,
        real_dir: str,
        output_dir: str,
        features: Features | None = None,
        segment: Segment | None = None,
        extractor: str = "encoder of our segmenter",
        volumes: int = 3,
    ) -> None:
        self.data, self.real, self.output_dir = data, real, Path(output_dir)
        self.held_out = image_set(real, real_dir)
        self.masks = image_set(data, data_dir)
        self.extractors = [] if features is None else [MapExtractor(features, extractor)]
        self.segment, self.volumes = segment, volumes
        self.before: list[np.ndarray] = []
        self.after: list[np.ndarray] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _collect(self, engine: Engine) -> None:
        self.before += _unit(engine.state.batch["before"])
        self.after += _unit(engine.state.output[CommonKeys.PRED])

    def _report(self) -> None:
        scans = real_scans(self.data, self.real)
        report = {
            name: judge_images(
                ImageSet(self.masks.ids, images, self.masks.labels, self.masks.persons),
                self.held_out,
                self.data.schema,
                real=scans,
                extractors=self.extractors,
                segment=self.segment,
            )
            for name, images in (("before", self.before), ("after", self.after))
        }
        write_json(self.output_dir / "evaluation.json", report)
        self._draw(scans)

    def _draw(self, scans: Images | None) -> None:
        rows = []
        for index in range(min(self.volumes, len(self.after))):
            rows += label_rows(self.data.labels[index], self.data.schema)
            shown = [self.before[index], self.after[index]]
            for image in [scans[index], *shown] if scans is not None else shown:
                rows += image_rows(image, self.data.schema)
        save_rows(rows, self.output_dir / "evaluation.png")


def image_set(data: Arrays, data_dir: str) -> ImageSet:
    """Return pairs in memory with the persons that their pair set names (phantoms: the ids)."""
    persons = list(data.ids)
    if not data_dir.startswith("phantom:"):
        pairs = PairSet.open(data_dir)
        persons = [pairs.person(name) for name in data.ids]
    images = [np.clip(image, 0, 1) for image in data.images]
    return ImageSet(list(data.ids), images, data.labels, persons)


def real_scans(data: Arrays, real: Arrays) -> list[np.ndarray] | None:
    """Return the real scan of every mask, or None unless all masks are those of real scans."""
    by_id = dict(zip(real.ids, zip(real.labels, real.images, strict=True), strict=True))
    found = []
    for name, label in zip(data.ids, data.labels, strict=True):
        if name not in by_id or not np.array_equal(by_id[name][0], label):
            return None
        found.append(np.clip(by_id[name][1], 0, 1))
    return found


def _unit(images: Tensor) -> list[np.ndarray]:
    return list(((images[:, 0] + 1) / 2).clamp(0, 1).float().cpu().numpy())
