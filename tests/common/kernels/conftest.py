"""Kernels run on CUDA where there is one, and through Triton's interpreter in a process of its own.

Triton decides at its import whether it interprets, so `test_interpreted.py` starts pytest again on
this folder with TRITON_INTERPRET=1; there the device is the CPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


NO_GPU = "no CUDA; test_interpreted.py runs it through Triton's interpreter"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the Triton kernels run, on demand."""
    monkeypatch.setenv("MEDPAIR_KERNELS", "triton")
    return torch.device("cpu") if INTERPRETED else torch.device("cuda", 0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what would run on CUDA; the process of the interpreter runs nothing else."""
    on_device = [i for i in items if "device" in getattr(i, "fixturenames", ())]
    if INTERPRETED:
        config.hook.pytest_deselected(items=[i for i in items if i not in on_device])
        items[:] = on_device
        return
    for item in on_device:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.gpu)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and FOLDER in item.path.parents:
        pytest.importorskip("triton", reason="triton cannot be imported here")
        if not torch.cuda.is_available():
            pytest.skip(NO_GPU)
