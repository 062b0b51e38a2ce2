"""Seconds and peak memory of a piece of work."""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path

import torch


class Usage:
    """Measure from construction to `measured`."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        _reset_peak()

    def measured(self) -> dict[str, float]:
        """Return ``seconds``, ``peak_memory_gb`` (process) and, with CUDA, ``peak_cuda_gb``."""
        result = {
            "seconds": round(time.perf_counter() - self.began, 3),
            "peak_memory_gb": round(_peak_bytes() / 2**30, 3),
        }
        if torch.cuda.is_available():
            result["peak_cuda_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        return result


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: reset VmHWM


def _peak_bytes() -> float:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024.0 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
