"""The report of an evaluator's run: scores of known images, files, items of a data set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from torch import Tensor, nn

from common.data.datasets import Arrays, load_arrays
from common.engines.batches import IterationBatches
from common.engines.fidelity_report import FidelityReport, VolumePairs, summary


@pytest.fixture(scope="module")
def data() -> Arrays:
    return load_arrays("phantom:brain4:20x24x22:2", "training")


class Lookup(nn.Module):
    """A generator that knows the scan of every mask; its image in [-1, 1] is blurred by noise."""

    def __init__(self, data: Arrays, contrast: float) -> None:
        super().__init__()
        self.data, self.contrast = data, contrast

    def forward(self, label: Tensor) -> Tensor:
        known = [torch.from_numpy(x) for x in self.data.labels]
        found = [next(i for i, x in enumerate(known) if torch.equal(x, m[0])) for m in label]
        unit = torch.stack([torch.from_numpy(self.data.images[i])[None] for i in found])
        return 2 * self.contrast * unit.clamp(0, 1) - 1


def run(data: Arrays, folder: Path, contrast: float, batches: IterationBatches | None) -> Engine:
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(VolumePairs(data), batch_size=2),
        network=Lookup(data, contrast),
        decollate=False,
        val_handlers=[FidelityReport(data.schema, str(folder), batches, volumes=1, slices=2)],
    )
    evaluator.run()
    return evaluator


def test_a_generator_that_returns_the_scan_scores_as_equal(data, tmp_path) -> None:
    metrics = run(data, tmp_path, 1.0, None).state.metrics
    assert metrics["ssim"] == pytest.approx(1)
    assert metrics["detail_ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["median_error"] == pytest.approx(0, abs=1e-6)
    assert metrics.get("psnr", 100.0) >= 100  # none where the images are equal to the last bit
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["n"] == 2
    assert set(report["pairs"]) == set(report["intensity_order"]) == set(data.ids)
    assert (tmp_path / "evaluation.png").stat().st_size > 500


def test_half_the_contrast_is_half_the_detail_and_half_of_every_median_is_lost(
    data, tmp_path
) -> None:
    metrics = run(data, tmp_path, 0.5, None).state.metrics
    assert metrics["detail_ratio"] == pytest.approx(0.5, abs=1e-4)
    image, label = data.images[0].clip(0, 1), data.labels[0]
    report = json.loads((tmp_path / "evaluation.json").read_text())
    name = data.schema.names[1]
    assert report["pairs"][data.ids[0]]["intensity"][name]["median"] == pytest.approx(
        0.5 * float(np.median(image[label == 1])), abs=1e-5
    )


def test_a_validation_is_named_by_the_iteration_and_a_second_run_starts_anew(
    data, tmp_path
) -> None:
    batches = IterationBatches(lambda _: {}, seed=0, epoch_length=1)
    batches.iteration = 40
    evaluator = run(data, tmp_path, 0.9, batches)
    batches.iteration = 80
    evaluator.run()
    assert {p.name for p in tmp_path.iterdir()} == {
        f"0000{n}.{kind}" for n in (40, 80) for kind in ("json", "png")
    }
    reports = [json.loads((tmp_path / f"0000{n}.json").read_text()) for n in (40, 80)]
    assert reports[0] == reports[1]


def test_reasons_stay_out_of_the_scores() -> None:
    scores = {"ms_ssim": "not computed: size 8x8x8 is too small", "ssim": 0.5, "psnr": 20.0}
    errors = {"a": {"median": 0.2}, "b": {"median": "not computed: label b is absent"}}
    found = summary({"mean": {"3D": scores}, "intensity": errors, "detail_ratio": 0.8})
    assert found == {"ssim": 0.5, "psnr": 20.0, "detail_ratio": 0.8, "median_error": 0.2}


def test_items_carry_mask_scan_and_name(data) -> None:
    items = VolumePairs(data)
    assert len(items) == 2
    item = items[1]
    assert item["id"] == data.ids[1]
    assert item["image"].shape == item["label"].shape == (1, 20, 24, 22)
    assert item["image"].dtype == torch.uint8
    assert 0 <= item["label"].min() < item["label"].max() <= 1
