"""R6: time the training updates of every stage, one option against another in one process.

    benchmarks/training.py --data PAIRSET --preset tiny --out report.json

Each variant opens the training's own config with some options changed and makes updates in turn
with the others, round after round; the figures are medians over the rounds. A round's time runs
until its last update is done on the device. ``--copies 0`` leaves out the changed copies of scans
that a training makes on first use and keeps: so the figures are those of a long training. It runs
on CUDA where there is a device, else on the CPU; the share of the peak is given where the device's
bf16 peak is known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from race import machine

from common.engines.device import pick_device
from common.engines.speed import counted_flops, peak_tflops, windows_in
from common.io.usage import Usage
from common.stages import open_workflow

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"ahead": 0, "channels_last": False, "precision": "fp32"},
    "as shipped": {},
    "ahead 0": {"ahead": 0},
    "channels_last false": {"channels_last": False},
    "fused": {"fused": True},
    "bf16": {"precision": "bf16"},
    "compile": {"compile": True},
    "device": {"cache_device": "@device"},
    "fast": {"compile": True, "fused": True, "cache_device": "@device"},
}
TRAININGS = (
    "mcdpm_mask:train",
    "vid2vid_image:train",
    "sdm_refiner:train",
    "gem3d_volume:train_autoencoder",
)


class Contestant:
    """A training that makes updates on request."""

    def __init__(self, training: str, preset: str, options: dict[str, Any]) -> None:
        bundle, kind = training.split(":")
        workflow = open_workflow(bundle, kind, preset, {"progress": False, **options})
        self.trainer = workflow.parser.get_parsed_content("train#trainer")
        self.stream: Iterator[Any] = iter(workflow.parser.get_parsed_content("train#batches"))
        self.rates: list[float] = []
        self.waits: list[float] = []

    def update(self) -> dict[str, float]:
        """Make one update; return its windows and the seconds that it waited for them."""
        began = time.perf_counter()
        batch = next(self.stream)
        waited = time.perf_counter() - began
        self.trainer.state.iteration += 1
        self.trainer._iteration(self.trainer, batch)
        return {"windows": windows_in(batch), "waited": waited}

    def round(self, updates: int) -> None:
        """Time some updates."""
        began = time.perf_counter()
        made = [self.update() for _ in range(updates)]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        self.rates.append(sum(one["windows"] for one in made) / seconds)
        self.waits.append(sum(one["waited"] for one in made) / seconds)


def measure(training: str, names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each variant of a training."""
    device, found, contestants = pick_device(), {}, {}
    with TemporaryDirectory() as folder:
        shared = {"dataset_dir": args.data, "resume": False, "output_dir": folder}
        if args.copies is not None and "vid2vid" not in training and "sdm" not in training:
            shared["copies"] = args.copies
        for name in names:
            contestants[name] = Contestant(training, args.preset, shared | VARIANTS[name])
        for name, one in contestants.items():
            usage = Usage()
            began = time.perf_counter()
            one.update()
            found[name] = {"first_update_s": round(time.perf_counter() - began, 3)}
            with counted_flops() as total:
                windows = one.update()["windows"]
            found[name] |= {"gflop_per_window": round(total() / windows / 1e9, 3)}
            for _ in range(args.warm):
                one.update()
            found[name] |= usage.measured()
        for _ in range(args.rounds):
            for one in contestants.values():
                one.round(args.updates)
    for name, one in contestants.items():
        rate = statistics.median(one.rates)
        tflops = rate * found[name]["gflop_per_window"] / 1e3
        found[name] |= {
            "windows_per_s": round(rate, 3),
            "lowest": round(min(one.rates), 3),
            "highest": round(max(one.rates), 3),
            "waited": round(statistics.median(one.waits), 4),
            "tflops": round(tflops, 4),
        }
        peak = peak_tflops(device)
        if peak is not None:
            found[name]["share_of_peak"] = round(tflops / peak, 4)
    return found


def main() -> None:
    """Parse the command line, measure, write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="pair set, its compact file, or phantom:...")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--trainings", default=",".join(TRAININGS))
    parser.add_argument("--variants", default="ahead 0,as shipped", help=", ".join(VARIANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=4, help="per round")
    parser.add_argument("--warm", type=int, default=3, help="updates before the first round")
    parser.add_argument("--copies", type=int, help="changed copies per scan; 0 for none")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    kind = pick_device().type
    options = {
        "device": kind,
        "preset": args.preset,
        "rounds": args.rounds,
        "updates": args.updates,
    }
    report: dict[str, Any] = {"options": options, **machine(kind), "trainings": {}}
    for training in args.trainings.split(","):
        report["trainings"][training] = measure(training, args.variants.split(","), args)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({training: report["trainings"][training]}, indent=1), flush=True)


if __name__ == "__main__":
    main()
