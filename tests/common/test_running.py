"""Batches by memory budget, compilation and exactness, from option to manifest."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common import pipeline
from common.data.datasets import PairSet
from common.data.pairs import PairBatch
from common.engines.compiled import compile_steps
from common.errors import MedpairError
from common.jobs import Geometry
from common.running import MOST_VOLUMES, Running
from common.stages import open_key
from mcdpm.stage import MaskStage

GIB = 2.0**30
GEOMETRY = Geometry("brain4", (8, 8, 8), (1.0, 1.0, 1.0), {}, 3)
WORDS: dict[str, Any] = {"num": 1, "seed": 0, "stages": ["mask", "image"], "gate": False}


@dataclass
class Hungry:
    """A stage that holds a tenth of a GiB per volume."""

    network: nn.Module

    def __call__(self, batch: PairBatch) -> PairBatch:
        return batch

    def working_bytes(self, volumes: int, _size: tuple[int, int, int]) -> float:
        return 0.1 * GIB * volumes


STAGES: dict[str, Any] = {"a": Hungry(nn.Linear(1, 1)), "b": lambda batch: batch}


@pytest.mark.parametrize(("gib", "wanted"), [(0.14, 1), (0.27, 2), (0.5, 2), (0.53, 4), (1e3, 4)])
def test_the_largest_batch_within_the_budget(gib: float, wanted: int) -> None:
    assert MOST_VOLUMES["cpu"] == 4
    if not torch.cuda.is_available():
        assert Running(memory_gib=gib).volumes(STAGES, GEOMETRY) == wanted


def test_without_a_budget_the_preset_or_the_user_decides() -> None:
    assert Running().volumes(STAGES, GEOMETRY) == 3
    assert Running(batch_volumes=7).volumes(STAGES, GEOMETRY) == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"batch_volumes": 0}, "--batch-volumes: 0, wanted >= 1"),
        ({"memory_gib": 0.0}, "--memory-gib: 0, wanted > 0"),
        ({"memory_gib": 1.0, "batch_volumes": 1}, "both given"),
    ],
)
def test_wrong_numbers(words: dict[str, Any], message: str) -> None:
    with pytest.raises(MedpairError, match=message):
        Running(**words)


def test_a_budget_below_one_volume_says_what_one_needs() -> None:
    with pytest.raises(MedpairError, match=r"--memory-gib: 0\.05, wanted 0\.13 for one volume"):
        Running(memory_gib=0.05).volumes(STAGES, GEOMETRY)


def test_a_real_stage_needs_more_for_more_volumes() -> None:
    stage: Any = open_key("mcdpm_mask", "stage", "tiny")
    one, two, four = (stage.working_bytes(v, (48, 40, 40)) for v in (1, 2, 4))
    assert one < two < four
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)


def test_words_are_those_of_the_command() -> None:
    said = Running(exact=True, compile=True, batch_volumes=2).words()
    assert said == ["--exact", "--compile", "--batch-volumes", "2"]


def test_compiled_networks_keep_their_parameters_and_results() -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    stage = open_key("mcdpm_mask", "stage", "tiny")
    assert isinstance(stage, MaskStage)
    x, t, where = torch.randn(2, 6, 7, 40, 40), torch.full((2,), 500.0), torch.zeros(2, 2)
    with torch.no_grad():
        plain, names = stage.network(x, t, where), list(stage.network.state_dict())
        assert compile_steps(stage.network) == 1
        fast = stage.network(x, t, where)
    assert list(stage.network.state_dict()) == names
    torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)


def test_a_machine_that_cannot_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_words: Any, **_options: Any) -> Any:
        def call(_x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler found")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    network = nn.Linear(1, 1)
    network.called_per_step = True  # type: ignore[assignment]
    with pytest.raises(MedpairError, match=r"compile: .*no compiler found.*leave the option out"):
        compile_steps(network)


def test_memory_that_runs_out_is_noted_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = WORDS | {"num": 2, "batch_volumes": 2}
    whole = PairSet.open(pipeline.generate("medgen3d", out=tmp_path / "whole", **words))
    assert "halved_to" not in whole.record("s0_00000")
    call = MaskStage.__call__

    def small(self: MaskStage, batch: PairBatch) -> PairBatch:
        if len(batch.volumes) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(self, batch)

    monkeypatch.setattr(MaskStage, "__call__", small)
    made = PairSet.open(pipeline.generate("medgen3d", out=tmp_path / "halved", **words))
    assert made.record("s0_00001")["halved_to"] == {"mask": 1}
    for identity in whole.ids():  # the stated tolerance: a rounding may turn a voxel at a border
        agree = made.read(identity).label == whole.read(identity).label
        assert np.mean(agree) >= 0.999
    exact = WORDS | {"num": 2, "batch_volumes": 2, "exact": True}
    with pytest.raises(MedpairError, match="2 volumes do not fit into memory"):
        pipeline.generate("medgen3d", out=tmp_path / "exact", **exact)
    assert not list((tmp_path / "exact").glob("images/*"))
