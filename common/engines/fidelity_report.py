"""What a validation or evaluation says: fidelity to held-back scans, and a picture.

D, H, W volume size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from common.data.labels import LabelSchema
from common.data.pictures import image_rows, label_rows, save_rows
from common.engines.batches import IterationBatches
from common.io.atomic import write_json
from common.metrics.detail import detail_ratio
from common.metrics.fidelity import evaluate_images
from common.metrics.intensity import intensity_order
from common.metrics.values import mean_of

SCORES = ("ms_ssim", "ssim", "psnr")


class FidelityReport:
    """Compare generated images with the real scans of the same masks, after an evaluator's run.

    Writes `<name>.png` (rows of masks, real image, generated image) and `<name>.json` (everything
    that `evaluate_images` returns); puts the mean scores in 3D into `engine.state.metrics`:
    ms_ssim, ssim, psnr (dB), median_error (mean over labels) and detail_ratio (local contrast of
    generated over real images; below 1 they are blurred).

    Args:
        schema: the labels' schema.
        output_dir: folder of the reports.
        batches: the trainer's data, whose iteration names the report; None calls it "evaluation".
        volumes: volumes shown in the picture.
        slices: slices shown per volume.
    """

    def __init__(
        self,
        schema: LabelSchema,
        output_dir: str,
        batches: IterationBatches | None = None,
        volumes: int = 3,
        slices: int = 8,
    ) -> None:
        self.schema, self.output_dir, self.batches = schema, Path(output_dir), batches
        self.volumes, self.slices = volumes, slices
        self.seen: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _clear(self) -> None:
        self.seen = []

    def _collect(self, engine: Engine) -> None:
        output, names = engine.state.output, engine.state.batch["id"]
        label, real, made = (
            output[key].detach().cpu()[:, 0].float()
            for key in (CommonKeys.IMAGE, CommonKeys.LABEL, CommonKeys.PRED)
        )
        for name, mask, scan, image in zip(names, label, real, made, strict=True):
            unit = ((image + 1) / 2).clamp(0, 1)
            self.seen.append((str(name), mask.byte().numpy(), scan.numpy(), unit.numpy()))

    def _report(self, engine: Engine) -> None:
        names, labels, real, made = zip(*self.seen, strict=True)
        report = evaluate_images(made, real, labels, names, self.schema)
        orders = [intensity_order(i, m, self.schema) for i, m in zip(made, labels, strict=True)]
        report["intensity_order"] = dict(zip(names, orders, strict=True))
        ratios = [detail_ratio(i, r) for i, r in zip(made, real, strict=True)]
        report["detail_ratio"] = mean_of(ratios, "the real images are flat")
        scores = summary(report)
        engine.state.metrics.update(scores)
        stem = f"{self.batches.iteration:06d}" if self.batches is not None else "evaluation"
        write_json(self.output_dir / f"{stem}.json", report)
        rows = []
        for _, label, scan, image in self.seen[: self.volumes]:
            rows += label_rows(label, self.schema, self.slices)
            rows += image_rows(scan, self.schema, self.slices)
            rows += image_rows(image, self.schema, self.slices)
        save_rows(rows, self.output_dir / f"{stem}.png")


def summary(report: dict[str, Any]) -> dict[str, float]:
    """Return the mean 3D scores and the mean error of the label medians, where they are numbers."""
    found = {key: report["mean"]["3D"][key] for key in SCORES}
    errors = [entry["median"] for entry in report["intensity"].values()]
    found["detail_ratio"] = report["detail_ratio"]
    numbers = [e for e in errors if isinstance(e, float)]
    if numbers:
        found["median_error"] = float(np.mean(numbers))
    return {key: value for key, value in found.items() if isinstance(value, float)}


class VolumePairs(torch.utils.data.Dataset[dict[str, Any]]):
    """Masks and scans as items for MONAI's evaluators.

    Items: "image" the mask (1, D, H, W) uint8, which is the network's input; "label" the real scan
    (1, D, H, W) float32 in [0, 1], which is what its output is compared with; "id".

    Args:
        data: pairs in memory.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            CommonKeys.IMAGE: torch.as_tensor(self.data.labels[index])[None],
            CommonKeys.LABEL: torch.as_tensor(self.data.images[index])[None].clamp(0, 1),
            "id": self.data.ids[index],
        }
