"""What is decided before a training begins."""

from __future__ import annotations

import pytest
import torch

from common import training
from common.errors import MedpairError
from common.training import FAST, check_training_memory, length_of, memory_errors, trainings


def test_a_stage_shares_its_minutes_between_its_trainings() -> None:
    stages = [
        {"name": "a", "trainings": ["x", "y"], "shares": [1, 3]},
        {"name": "b"},
        {"name": "c", "trainings": []},
    ]
    found = [(stage["name"], kind, share) for stage, kind, share in trainings(stages)]
    assert found == [("a", "x", 0.25), ("a", "y", 0.75), ("b", "train", 1.0)]


def test_a_training_has_one_length() -> None:
    assert length_of(None, None) == {}
    assert length_of(7, None, 0.5) == {"max_iterations": 7}
    assert length_of(None, 8, 0.25) == {"minutes": 2}
    with pytest.raises(MedpairError, match="wanted one of them"):
        length_of(7, 8)


def test_a_gpu_with_less_memory_than_a_training_needs_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = {"training_gib": {"mask": 5.5, "image": 11.0}}
    check_training_memory(entry, ["mask", "image"], "base")  # a CPU is not asked
    monkeypatch.setattr(training, "pick_device", lambda: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 2**30, 16 * 2**30))
    check_training_memory(entry, ["mask", "refine"], "base")
    with pytest.raises(MedpairError, match=r"Tesla T4: 8\.00 GiB free, .* base needs 11\.00 GiB"):
        check_training_memory(entry, ["mask", "image"], "base")


def test_memory_that_runs_out_is_one_line() -> None:
    with pytest.raises(MedpairError, match=r"too small for training preset base \(CUDA out") as e:  # noqa: SIM117
        with memory_errors("base"):
            raise RuntimeError("of MONAI") from torch.OutOfMemoryError("CUDA out of\nmemory")
    assert "\n" not in str(e.value)
    with pytest.raises(MedpairError, match="can't allocate"), memory_errors("base"):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 TB")
    with pytest.raises(RuntimeError, match="another"), memory_errors("base"):
        raise RuntimeError("another")


def test_fast_options_are_keys_of_every_training_of_a_pipeline() -> None:
    from common.bundles import bundles_dir
    from common.pipeline import read_pipeline

    for pipeline in ("medgen3d", "gem3d"):
        for stage, kind, _ in trainings(read_pipeline(pipeline)["stages"]):
            text = (bundles_dir() / stage["bundle"] / "configs" / f"{kind}.yaml").read_text("utf-8")
            for key in (*FAST, "minutes", "ahead", "channels_last"):
                assert f"\n{key}: " in text
                assert f'"@{key}"' in text
