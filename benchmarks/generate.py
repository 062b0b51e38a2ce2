"""Time `generate` and check that an equal seed gives equal bytes in a second process.

    python benchmarks/generate.py [--preset tiny] [--n 2] [--weights DIR] --out runs/bench

Writes and prints `report.json`. Exit status 1 where the two runs differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from common.errors import MedpairError
from common.io.atomic import to_json, write_json
from common.io.manifest import sha256, versions

TIMED = ("run.jsonl", "report.html")  # they hold seconds


def run(words: argparse.Namespace, out: Path) -> float:
    """Generate in a fresh process and return its seconds, start of the process included."""
    if out.exists():
        raise MedpairError(f"--out: {out} exists, wanted a new folder: remove it or name another")
    command = [sys.executable, "-m", "medpair", "generate", words.pipeline, "--seed", "0"]
    command += ["--n", str(words.n), "--out", str(out)]
    command += ["--preset", words.preset] if words.preset else []
    command += ["--weights", words.weights] if words.weights else []
    began = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)  # the command said why
    return time.perf_counter() - began


def contents(folder: Path) -> dict[str, str]:
    """Return the checksum of every file that must not change between equal runs."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in TIMED)
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def stages(folder: Path) -> dict[str, dict[str, float]]:
    """Return seconds per pair set and the highest peak of memory, by stage."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for line in (folder / "run.jsonl").read_text(encoding="utf-8").splitlines():
        entry: dict[str, Any] = json.loads(line)
        if "seconds" in entry:
            stage = found[entry["stage"]]
            stage["seconds"] += entry["seconds"]
            for key in entry.keys() & {"peak_memory_gb", "peak_cuda_gb"}:
                stage[key] = max(stage[key], entry[key])
    return {name: dict(values) for name, values in found.items()}


def main() -> int:
    """Run twice, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pipeline", default="medgen3d")
    parser.add_argument("--preset")
    parser.add_argument("--weights")
    parser.add_argument("--n", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    folders = words.out / "first", words.out / "second"
    seconds = [round(run(words, folder), 2) for folder in folders]
    report = {
        "command": {"pipeline": words.pipeline, "preset": words.preset, "n": words.n, "seed": 0},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions("medpair", "torch", "monai", "numpy"),
        "seconds": seconds,
        "stages": stages(folders[0]),
        "equal_bytes": contents(folders[0]) == contents(folders[1]),
    }
    write_json(words.out / "report.json", report)
    print(to_json(report))
    return 0 if report["equal_bytes"] else 1


if __name__ == "__main__":
    sys.exit(main())
