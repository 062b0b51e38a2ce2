"""LPIPS: the views that it is given, the reasons without its tools, and the package itself."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import MedpairError
from common.metrics.perceptual import map_distance, open_lpips, paired_lpips, trunk

SIZE = (36, 40, 44)
LAYERS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


@pytest.fixture
def label() -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[4:14, 5:25, 6:36] = 1
    return mask


@pytest.fixture
def scan() -> np.ndarray:
    return np.random.default_rng(0).random(SIZE).astype(np.float32)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Random weights in the names and shapes of torchvision's AlexNet."""
    torch.manual_seed(0)
    state = {"classifier.1.weight": torch.zeros(2)}
    for layer, (out, channels, kernel) in LAYERS.items():
        state[f"features.{layer}.weight"] = torch.randn(out, channels, kernel, kernel) * 0.05
        state[f"features.{layer}.bias"] = torch.zeros(out)
    torch.save(state, tmp_path / "alexnet.pt")
    return tmp_path / "alexnet.pt"


def test_slices_with_foreground_are_compared_in_every_view(scan, label) -> None:
    seen = []

    def metric(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(a.shape))
        return (a - b).abs().mean((1, 2, 3))

    found = paired_lpips(metric, scan * 0.5, scan * 0.5 + 0.25, label, "SI")
    assert seen == [(10, 1, 40, 44), (20, 1, 36, 44), (30, 1, 36, 40)]
    assert found == pytest.approx(dict.fromkeys("ACS", 0.5))  # 0.25 of [0, 1] is 0.5 of [-1, 1]


def test_what_cannot_be_compared_says_why(scan, label) -> None:
    def metric(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(a))

    assert set(paired_lpips(metric, scan, scan, np.zeros_like(label), "SI").values()) == {
        "not computed: the mask is empty"
    }
    found = paired_lpips(metric, scan[:30], scan[:30], label[:30], "AP")  # D, H, W: C, A, S
    assert found["C"] == 0
    assert found["A"] == "not computed: slices of 30x44 are too small, 31 wanted"
    assert "30x40 are too small" in found["S"]
    with pytest.raises(MedpairError, match="generate for the real label map"):
        paired_lpips(metric, scan[1:], scan, label, "SI")


def test_without_a_path_or_the_package_there_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, scan, label, weights
) -> None:
    reason = open_lpips(None)
    assert reason == "not computed: no AlexNet weights are given for LPIPS"
    assert paired_lpips(reason, scan, scan, label, "SI") == dict.fromkeys("ACS", reason)
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert "lpips is not installed" in open_lpips(weights)


def test_layers_go_to_the_part_that_ends_with_their_relu(weights) -> None:
    names = trunk(torch.load(weights, weights_only=True))
    parts = {int(key.split(".")[1]): key.split(".")[0] for key in names}
    assert parts == {0: "slice1", 3: "slice2", 6: "slice3", 8: "slice4", 10: "slice5"}
    assert len(names) == 2 * len(LAYERS)


@pytest.mark.optional_tool("lpips")
def test_the_package_is_a_distance_with_weights_from_a_file(weights, scan, label, tmp_path) -> None:
    pytest.importorskip("lpips", reason="needs medpair[perceptual]")
    metric = open_lpips(weights)
    label[6:], label[:, 7:], label[..., 8:] = 0, 0, 0  # two slices in every view
    rng = np.random.default_rng(1)
    noise = rng.normal(size=SIZE).astype(np.float32)
    equal, near, far = (
        paired_lpips(metric, scan * 0.5 + 0.25 + s * noise, scan * 0.5 + 0.25, label, "SI")
        for s in (0.0, 0.02, 0.2)
    )
    for view in "ACS":
        assert equal[view] == pytest.approx(0, abs=1e-6)
        assert 0 < near[view] < far[view]
    with pytest.raises(MedpairError, match="no such weight file"):
        open_lpips(tmp_path / "none.pt")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(MedpairError, match="no state dict of torchvision's AlexNet"):
        open_lpips(tmp_path / "other.pt")


def two_channels(image_VDHW: Tensor) -> Tensor:
    """Two feature channels: the image and its difference from 1, as maps (V, 2, D, H, W)."""
    return torch.stack([image_VDHW, 1 - image_VDHW], dim=1)


def test_map_distance_is_the_angle_between_feature_vectors() -> None:
    ones, halves = np.ones((2, 3, 4), np.float32), np.full((2, 3, 4), 0.5, np.float32)
    # 1 -> (1, 0); 0.5 -> 0 in [-1, 1] -> (0, 1): orthogonal unit vectors
    assert map_distance(two_channels, ones, ones) == 0
    assert map_distance(two_channels, ones, halves) == pytest.approx(2)


def test_map_distance_grows_with_the_difference() -> None:
    real = np.random.default_rng(0).random((4, 5, 6), dtype=np.float32)
    near, far = (map_distance(two_channels, real + shift, real) for shift in (0.01, 0.2))
    assert 0 < near < far
