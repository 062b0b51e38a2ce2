"""Kernels run on CUDA where there is one, and through Triton's interpreter in a process of its own.

Triton decides at its import whether it interprets, so `test_interpreted.py` starts pytest again on
this folder with TRITON_INTERPRET=1; there the device is the CPU.
"""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the Triton kernels run, on demand."""
    pytest.importorskip("triton", reason="triton cannot be imported here")
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("no CUDA; test_interpreted.py runs this through Triton's interpreter")
    monkeypatch.setenv("MEDPAIR_KERNELS", "triton")
    return torch.device("cpu" if INTERPRETED else "cuda", None if INTERPRETED else 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what would run on CUDA."""
    for item in items:
        if not INTERPRETED and "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)
