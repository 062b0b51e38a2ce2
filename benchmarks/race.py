"""What the speed benchmarks share: contestants in turns, equality first, what the device can do.

Contestants run interleaved in one process (A B C A B C ...) after one round that does not count, so
that a machine which slows down slows all. Results are medians, with the range beside them.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from memory import weights_for
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common.io.atomic import to_json, write_json
from common.io.manifest import versions
from common.stages import open_workflow

Run = Callable[[], Any]
Words = argparse.Namespace


def arguments(description: str, **more: Any) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks; ``more`` are defaults of options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--preset", default="tiny")
    for name, default in more.items():
        kind = type(default) if default is not None else str
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    return parser


def open_parser(bundle: str, preset: str, **words: Any) -> Any:
    """Return a bundle's parsed inference config; weights that do not ship are random ones."""
    path = weights_for(bundle, preset, Path(tempfile.mkdtemp()))
    settings = {"weights": str(path), "preset": preset, **words}
    return open_workflow(bundle, "inference", preset, settings).parser


def check(name: str, found: Tensor, wanted: Tensor, tolerance: float) -> float:
    """Return the largest difference; end the benchmark where it is above the tolerance."""
    difference = float((found.double().cpu() - wanted.double().cpu()).abs().max())
    if not difference <= tolerance:
        raise SystemExit(f"error: {name} differs by {difference:g}, wanted <= {tolerance:g}")
    return difference


def race(runs: Mapping[str, Run], repeats: int, device: str) -> dict[str, dict[str, float]]:
    """Time contestants in turns.

    Args:
        runs: by name; the first is ours.
        repeats: times that each runs, after one that does not count.
        device: whose work is waited for.

    Returns:
        Per name: median, least and most seconds, and ``ratio``, its median over ours.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            seconds = timed(run, device)
            if turn:
                times[name].append(seconds)
    ours = statistics.median(next(iter(times.values())))
    return {
        name: {
            "seconds": statistics.median(found),
            "least": min(found),
            "most": max(found),
            "ratio": statistics.median(found) / ours,
        }
        for name, found in times.items()
    }


def timed(run: Run, device: str) -> float:
    """Return the seconds that a run takes, work on a GPU included."""
    began = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def flops(run: Run) -> int:
    """Return the floating point operations of matrix products and convolutions in a run."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return int(counter.get_total_flops())


def limits(device: str, precision: str) -> dict[str, float]:
    """Measure what the device reaches: TFLOP/s of a matrix product, GB/s of a copy."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    side, count = (8192, 2**30) if device == "cuda" else (2048, 2**26)
    a = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.empty(count, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)

    def product() -> Tensor:
        return a @ a

    def copy() -> Tensor:
        return target.copy_(source)

    best = {run: min(timed(run, device) for _ in range(6)) for run in (product, copy)}
    return {
        "matmul_tflops": 2 * side**3 / best[product] / 1e12,
        "copy_gb_per_s": 2 * count / best[copy] / 1e9,
    }


def machine(device: str) -> dict[str, Any]:
    """Return hardware, versions and commit."""
    words = [shutil.which("git") or "", "describe", "--always", "--dirty"]
    folder = Path(__file__).parent
    done = words[0] and subprocess.run(words, cwd=folder, capture_output=True, text=True)
    commit = done.stdout.strip() if done else ""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions("medpair", "torch", "monai", "numpy"),
        "commit": commit or "unknown",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def finish(words: Words, report: Mapping[str, Any]) -> None:
    """Print the report and write it where asked."""
    options = {key: v for key, v in vars(words).items() if key != "out" and v is not None}
    whole = {"options": options, **report, **machine(words.device)}
    if words.out is not None:
        write_json(words.out, whole)
    print(to_json(whole))


def speed(count: int, seconds: float, best: Mapping[str, float]) -> dict[str, float]:
    """Return TFLOP, TFLOP/s and the share of what a matrix product reaches on the device."""
    reached = count / seconds / 1e12
    return {
        "tflop": count / 1e12,
        "tflops": reached,
        "share_of_matmul": reached / best["matmul_tflops"],
    }


def peak_gib(run: Run, device: str) -> float:
    """Return the memory in GiB that a run adds at its peak; Linux alone can say it of a CPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**30
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
    before = _status_kib("VmRSS")
    run()
    return (_status_kib("VmHWM") - before) / 2**20


def _status_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
