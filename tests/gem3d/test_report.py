"""What an evaluation of generated volumes says, D, H, W volume size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.utils import CommonKeys

from common.data.datasets import load_arrays
from gem3d.report import VolumeReport
from gem3d.sampler import LatentSampler

PHANTOM = "phantom:brain4:24x24x24:2"
DATA = load_arrays(PHANTOM, "validation")
REAL = np.stack(DATA.images).clip(0, 1)
STARTS = [10] * len(REAL)


def report(
    folder: Path, images: np.ndarray, make: Any, sampler: LatentSampler | None = None, **kw: Any
) -> dict[str, Any]:
    """Judge images as an evaluator hands them over, one at a time."""

    def step(_: Engine, batch: dict[str, Any]) -> dict[Any, torch.Tensor]:
        return {CommonKeys.PRED: torch.as_tensor(batch["made"])[None, None] * 2 - 1}

    evaluator = Engine(step)
    VolumeReport(DATA.schema, PHANTOM, "validation", str(folder), sampler, **kw).attach(evaluator)
    evaluator.run(
        [{"made": m, "index": torch.tensor([s])} for m, s in zip(images, STARTS, strict=True)]
    )
    return dict(json.loads((folder / "evaluation.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def sampler(make: Any) -> LatentSampler:
    return LatentSampler(make.schedule, window=8)


def test_the_real_scans_are_faithful_to_themselves(
    tmp_path: Path, make: Any, sampler: LatentSampler
) -> None:
    found = report(tmp_path, REAL, make, sampler)
    mean = found["fidelity"]["mean"]["3D"]
    assert mean["ssim"] == pytest.approx(1, abs=1e-6)
    assert mean["psnr"] > 100
    assert found["n"] == found["n_held_out"] == len(REAL)
    assert found["n_training"] == 2
    assert found["alignment"].startswith("not computed")
    assert found["features"].startswith("not computed")
    assert found["seam_index"] < 1.6
    assert (tmp_path / "evaluation.png").stat().st_size > 1000


def test_seams_show_at_the_joints_of_each_volumes_own_windows(
    tmp_path: Path, make: Any, sampler: LatentSampler
) -> None:
    plain = report(tmp_path / "plain", REAL, make, sampler)["seam_index"]
    seamed = REAL.copy()
    for image, start in zip(seamed, STARTS, strict=True):
        for side, k in enumerate(sampler.plan(24, start).joints):
            image[k:] += 0.2 * (-1) ** side  # a step at the joint
    moved = REAL.copy()
    moved[:, 12:] += 0.2  # a step inside the start window
    found = report(tmp_path / "seamed", seamed.clip(0, 1), make, sampler)["seam_index"]
    elsewhere = report(tmp_path / "moved", moved.clip(0, 1), make, sampler)["seam_index"]
    assert found > 1.5 * max(plain, elsewhere)


def test_without_a_sampler_there_is_no_seam_index(tmp_path: Path, make: Any) -> None:
    assert "seam_index" not in report(tmp_path, REAL, make)


def test_a_segmenter_and_features_are_used(tmp_path: Path, make: Any) -> None:
    def segment(image_VDHW: torch.Tensor) -> torch.Tensor:
        assert -1 <= image_VDHW.min() <= image_VDHW.max() <= 1
        return torch.as_tensor(DATA.labels[0])[None]

    def features(image_VDHW: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool3d(image_VDHW[:, None], 4)

    found = report(tmp_path, REAL, make, segment=segment, features=features, extractor="means")
    assert {entry["dice"] for entry in found["alignment"]["labels"].values()} == {1.0}
    assert set(found["features"]) == {"means"}
