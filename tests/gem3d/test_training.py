"""What the training configs show at a validation, D, H, W volume size."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from common.data.datasets import load_arrays
from gem3d.training import SampleSlices, SampleVolumes, mean_scores

DATA = load_arrays("phantom:brain4:16x17x18:1", "validation")
BATCHES: Any = SimpleNamespace(iteration=12)


def run(handler: Any) -> dict[str, float]:
    evaluator = Engine(lambda e, b: None)
    handler.attach(evaluator)
    evaluator.run([0])
    return dict(evaluator.state.metrics)


def test_scores_of_the_scans_themselves_are_the_best_there_are() -> None:
    noisy = [
        image + 0.1 * np.random.default_rng(0).normal(size=image.shape) for image in DATA.images
    ]
    best = mean_scores(DATA.images, DATA.images, DATA.labels, DATA.schema)
    worse = mean_scores(
        [n.astype(np.float32) for n in noisy], DATA.images, DATA.labels, DATA.schema
    )
    assert best["ssim"] == pytest.approx(1, abs=1e-6)
    assert worse["ssim"] < 0.95
    assert 19 < worse["psnr"] < 24  # 20 dB before intensities are clipped
    assert "psnr" not in best  # infinite: no number


def test_volumes_are_made_for_scans_of_any_size(make: Any, tmp_path: Path) -> None:
    model, sampler = make.model(), make.generator().sampler
    parts = (model.autoencoder, model.volume, make.encoding(), sampler)
    handler = SampleVolumes(*parts, DATA, str(tmp_path), BATCHES, count=1)
    metrics = run(handler)
    assert {"ssim", "psnr"} <= set(metrics)
    assert all(np.isfinite(value) for value in metrics.values())
    assert (tmp_path / "samples" / "000012.png").stat().st_size > 500
    assert run(handler) == metrics  # the noise is the same at every validation


def test_slices_are_drawn_along_the_volume(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = make.model(), []

    def draw(network: Any, position_N: torch.Tensor, size: Any, **kw: Any) -> torch.Tensor:
        asked.append((position_N, list(size), kw["seed"]))
        return torch.zeros(len(position_N), make.channels, *size)

    monkeypatch.setattr("gem3d.training.draw_slices", draw)
    parts = (model.autoencoder, model.slice_generator, make.schedule, "v")
    run(SampleSlices(*parts, (17, 18), str(tmp_path), BATCHES, count=4))
    assert [seed for *_, seed in asked] == [0, 1, 2, 3]
    torch.testing.assert_close(asked[0][0], torch.tensor([0.2, 0.4, 0.6, 0.8]))
    assert asked[0][1] == [5, 5]
    assert (tmp_path / "samples" / "000012.png").exists()
