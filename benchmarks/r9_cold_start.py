"""R9: from the start of the process to the first pair on disk, part by part.

python benchmarks/r9_cold_start.py --out r9.json
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from race import arguments, finish

PARTS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import monai": ["-c", "import monai"],
    "medpair --version": ["-m", "medpair", "--version"],
    "medpair --help": ["-m", "medpair", "--help"],
    "open all stages": [
        "-c",
        "from common.pipeline import read_pipeline; from common.stages import open_stage\n"
        "for s in read_pipeline('medgen3d')['stages']: open_stage(s['bundle'], 'tiny')",
    ],
}


def seconds_of(words: list[str]) -> float:
    """Return the wall seconds of a process."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return time.perf_counter() - began


def pair(options: list[str]) -> float:
    """Return the seconds from nothing to one pair."""
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", str(Path(folder) / "pairs")]
        return seconds_of(["-m", "medpair", "generate", "medgen3d", "--n", "1", *out, *options])


def main() -> None:
    """Time all parts in turns."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="also with it, cold and warm")
    words = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in [*PARTS, "one pair"]}
    for turn in range(words.repeats + 1):
        for name, command in PARTS.items():
            times[name] += [seconds_of(command)][: min(turn, 1)]
        times["one pair"] += [pair([])][: min(turn, 1)]
    if words.compile:
        times["one pair, --compile, first"] = [pair(["--compile"])]
        times["one pair, --compile, again"] = [pair(["--compile"])]
    found = {
        name: {"seconds": statistics.median(v), "least": min(v), "most": max(v)}
        for name, v in times.items()
    }
    finish(words, {"benchmark": "R9 cold start", "parts": found})


if __name__ == "__main__":
    main()
