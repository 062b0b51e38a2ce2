"""What a validation or evaluation says: scores per label on held-back scans, and a picture.

D, H, W volume size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from common.data.datasets import Arrays
from common.data.pictures import image_rows, label_rows, save_rows
from common.engines.batches import IterationBatches
from common.errors import MedpairError
from common.io.atomic import write_json
from segeval.scores import Scores, score_masks, summarise


class SegmentationReport:
    """Compare predicted with real masks, after an evaluator's run.

    Writes `<name>.json` (scores per case and label, their means) and `<name>.png` (rows of image,
    real mask, predicted mask); puts `mean_dice` and `dice_<label>` into `engine.state.metrics`.

    Args:
        data: the pairs that the evaluator runs through; give schema and spacing.
        output_dir: folder of the reports.
        batches: the trainer's data, whose iteration names the report; None calls it "evaluation".
        surfaces: also HD95 and surface Dice, which want one spacing for all pairs.
        tolerance: distance in mm up to which surfaces agree; None takes the longest voxel edge.
        volumes: volumes shown in the picture.

    Raises:
        MedpairError: for surfaces of pairs whose spacings differ.
    """

    def __init__(
        self,
        data: Arrays,
        output_dir: str,
        batches: IterationBatches | None = None,
        surfaces: bool = True,
        tolerance: float | None = None,
        volumes: int = 3,
    ) -> None:
        self.schema, self.spacing = data.schema, data.spacing
        self.output_dir, self.batches, self.volumes = Path(output_dir), batches, volumes
        self.tolerance = None
        if surfaces:
            if data.spacing is None:
                raise MedpairError(
                    "dataset_dir: its spacing differs from pair to pair, wanted one for distances "
                    "in mm; prepare it with --spacing, or set surfaces to false"
                )
            self.tolerance = tolerance or max(data.spacing)
        self.cases: dict[str, dict[str, Scores]] = {}
        self.shown: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _clear(self) -> None:
        self.cases, self.shown = {}, []

    def _collect(self, engine: Engine) -> None:
        output, names = engine.state.output, engine.state.batch["id"]
        keys = (CommonKeys.IMAGE, CommonKeys.LABEL, CommonKeys.PRED)
        images, reals, logits = (output[key].detach().cpu() for key in keys)
        masks = logits.argmax(dim=1).byte()
        for name, image, real, mask in zip(names, images, reals, masks, strict=True):
            triple = image[0].numpy(), real[0].byte().numpy(), mask.numpy()
            self.cases[str(name)] = score_masks(
                triple[2], triple[1], self.schema, self.spacing, self.tolerance
            )
            if len(self.shown) < self.volumes:
                self.shown.append(triple)

    def _report(self, engine: Engine) -> None:
        summary = summarise(self.cases, self.schema)
        dice = {f"dice_{name}": scores["dice"] for name, scores in summary["labels"].items()}
        metrics = {"mean_dice": summary["mean"]["dice"], **dice}
        engine.state.metrics.update({k: v for k, v in metrics.items() if isinstance(v, float)})
        settings = {"spacing_mm": self.spacing, "tolerance_mm": self.tolerance}
        report = {"n": len(self.cases), **summary, "cases": self.cases, "settings": settings}
        stem = f"{self.batches.iteration:06d}" if self.batches is not None else "evaluation"
        write_json(self.output_dir / f"{stem}.json", report)
        rows = []
        for image, real, mask in self.shown:
            rows += image_rows(image, self.schema)
            rows += label_rows(real, self.schema) + label_rows(mask, self.schema)
        save_rows(rows, self.output_dir / f"{stem}.png")
