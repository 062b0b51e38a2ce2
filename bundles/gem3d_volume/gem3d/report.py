"""What an evaluation of generated volumes says.

D, H, W volume size.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from common.data.labels import LabelSchema
from common.data.pictures import image_rows, label_rows, save_rows
from common.io.atomic import write_json
from common.metrics.alignment import Segment
from common.metrics.consistency import seam_index
from common.metrics.extractors import Features, MapExtractor
from common.metrics.image_report import judge_images, read_images
from common.metrics.values import mean_of
from gem3d.sampler import LatentSampler


class VolumeReport:
    """Judge the images of an evaluator's run beside the real scans.

    Writes ``evaluation.json``: `judge_images`, and ``seam_index``, the mean over the volumes of the
    step at window joints over the steps around them; and ``evaluation.png``: rows of the mask, the
    real scan and the image.

    Args:
        schema: the schema of all masks.
        dataset_dir: pair set of real scans, held-back ones and training scans.
        split: whose masks the images were made for.
        output_dir: folder of the report.
        sampler: gives the window joints; None leaves the seam index out.
        features: feature maps of images in [-1, 1]; None leaves the feature distance out.
        segment: masks of images in [-1, 1]; None leaves the alignment out.
        extractor: name of ``features`` in the report.
        volumes: volumes shown in the picture.
    """

    def __init__(
        self,
        schema: LabelSchema,
        dataset_dir: str,
        split: str,
        output_dir: str,
        sampler: LatentSampler | None = None,
        features: Features | None = None,
        segment: Segment | None = None,
        extractor: str = "encoder of our segmenter",
        volumes: int = 4,
    ) -> None:
        self.schema, self.output_dir, self.sampler = schema, Path(output_dir), sampler
        self.data = read_images(dataset_dir, split)
        self.held_out = read_images(dataset_dir, "validation")
        self.training = read_images(dataset_dir, "training")
        self.extractors = [] if features is None else [MapExtractor(features, extractor)]
        self.segment, self.volumes = segment, volumes
        self.images: list[np.ndarray] = []
        self.starts: list[int] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _collect(self, engine: Engine) -> None:
        made = engine.state.output[CommonKeys.PRED][:, 0]
        self.images += list(((made + 1) / 2).clamp(0, 1).float().cpu().numpy())
        self.starts += [int(z) for z in engine.state.batch["index"]]

    def _report(self) -> None:
        report = judge_images(
            replace(self.data, images=self.images),
            self.held_out,
            self.schema,
            real=self.data.images,
            training=self.training,
            extractors=self.extractors,
            segment=self.segment,
        )
        if self.sampler is not None:
            report["seam_index"] = self._seams(self.sampler)
        write_json(self.output_dir / "evaluation.json", report)
        rows = []
        for index in range(min(self.volumes, len(self.images))):
            rows += label_rows(self.data.labels[index], self.schema)
            for image in (self.data.images[index], self.images[index]):
                rows += image_rows(image, self.schema)
        save_rows(rows, self.output_dir / "evaluation.png")

    def _seams(self, sampler: LatentSampler) -> object:
        found = [
            seam_index(image, label, sampler.plan(len(image), start).joints, axis=0)
            for image, label, start in zip(self.images, self.data.labels, self.starts, strict=True)
        ]
        return mean_of(found, "no window joint lies in the foreground")
