"""What a training says of its speed, with sleeps in the place of work."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from common.engines import speed
from common.engines.speed import Speed, counted_flops, peak_tflops, windows_in

Batch = dict[str, Tensor | int]


def batches(wait_s: float) -> Iterator[Batch]:
    while True:
        time.sleep(wait_s)
        yield {"x": torch.ones(4, 16), "iteration": 7}


def run(folder: Path, wait_s: float = 0.0, work_s: float = 0.0) -> dict[str, float]:
    """Five updates; their line."""
    torch.manual_seed(0)
    network = nn.Linear(16, 8)

    def step(_: Engine, batch: Batch) -> float:
        time.sleep(work_s)
        x = batch["x"]
        assert isinstance(x, Tensor)
        torch.autograd.backward(network(x).sum())
        return 0.0

    trainer = Engine(step)
    Speed(str(folder)).attach(trainer)
    trainer.run(batches(wait_s), max_epochs=1, epoch_length=5)
    (line,) = (folder / "run.jsonl").read_text(encoding="utf-8").splitlines()
    return dict(json.loads(line))


def test_rate_and_waiting_are_those_of_the_run(tmp_path: Path) -> None:
    line = run(tmp_path, wait_s=0.06, work_s=0.02)
    assert line["updates"] == 5
    assert 4 / 0.15 < line["windows_per_s"] <= 4 / 0.08
    assert 0.5 < line["waited"] <= 0.78
    assert line["peak_memory_gb"] > 0
    assert "tflops" not in line  # the peak of a CPU is not known


def test_share_of_the_peak_is_operations_over_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "peak_tflops", lambda device: 1e-6)  # 10^6 operations per second
    line = run(tmp_path, work_s=0.05)
    flops = 2 * 2 * 4 * 16 * 8  # forward and the weights' gradient
    assert line["share_of_peak"] == pytest.approx(flops / 0.05 / 1e6, rel=0.4)


def test_operations_are_those_of_the_formula() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)
    with counted_flops() as total:
        torch.autograd.backward(layer(torch.ones(2, 3, 8, 8)).sum())
    forward = 2 * (2 * 8 * 8) * 5 * (3 * 3 * 3)
    assert total() == 2 * forward


def test_a_device_that_is_not_listed_has_no_known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_tflops("cpu") is None
    names = {"NVIDIA H100 80GB HBM3": 989.0, "NVIDIA A100-SXM4-40GB": 312.0, "Tesla T4": None}
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_tflops("cuda:0") == peak


def test_windows_are_the_length_of_what_a_batch_holds() -> None:
    assert windows_in({"iteration": 3, "x": torch.zeros(5, 2)}) == 5
