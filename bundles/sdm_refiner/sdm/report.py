"""What an evaluation of the refiner says: the images before and after, judged alike.

D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor

from common.data.checks import check_schema
from common.data.datasets import load_arrays
from common.data.labels import LabelSchema
from common.data.pictures import image_rows, label_rows, save_rows
from common.io.atomic import write_json
from common.metrics.alignment import Segment
from common.metrics.extractors import Features, MapExtractor
from common.metrics.image_report import judge_images, read_images, scans_of

Images = Sequence[np.ndarray]


class RefinementReport:
    """Judge images before and after the refinement, after an evaluator's run.

    Writes ``evaluation.json`` with `judge_images` of both, and ``evaluation.png``: rows of the
    mask, the real scan where there is one, the image before and the image after.

    Args:
        schema: the schema of all masks.
        data_dir: pair set of the masks and the images to refine.
        data_split: its split; None for both.
        real_dir: pair set of real scans, held-back ones and training scans.
        output_dir: folder of the report.
        features: feature maps of images in [-1, 1] for the feature distance; None leaves it out.
        segment: masks of images in [-1, 1] for the alignment; None leaves it out.
        extractor: name of ``features`` in the report.
        volumes: volumes shown in the picture.

    Raises:
        MedpairError: if the real scans are of another schema.
    """

    def __init__(
        self,
        schema: LabelSchema,
        data_dir: str,
        data_split: str | None,
        real_dir: str,
        output_dir: str,
        features: Features | None = None,
        segment: Segment | None = None,
        extractor: str = "encoder of our segmenter",
        volumes: int = 3,
    ) -> None:
        real = load_arrays(real_dir, "validation").schema
        check_schema(real, schema.name, schema.num_classes)
        self.schema, self.output_dir = schema, Path(output_dir)
        self.data = read_images(data_dir, data_split)
        self.held_out = read_images(real_dir, "validation")
        self.training = read_images(real_dir, "training")
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
        scans = scans_of(self.data, self.held_out)
        report = {
            name: judge_images(
                replace(self.data, images=images),
                self.held_out,
                self.schema,
                real=scans,
                training=self.training,
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
            rows += label_rows(self.data.labels[index], self.schema)
            shown = [self.before[index], self.after[index]]
            for image in [scans[index], *shown] if scans is not None else shown:
                rows += image_rows(image, self.schema)
        save_rows(rows, self.output_dir / "evaluation.png")


def _unit(images: Tensor) -> list[np.ndarray]:
    return list(((images[:, 0] + 1) / 2).clamp(0, 1).float().cpu().numpy())
