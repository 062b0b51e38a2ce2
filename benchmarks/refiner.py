"""How fast is the refiner, and does it keep to its memory budget?

One process, same weights and seeds, runs in turns (ABAB): the refiner against a plain loop that
sends one slice after the other through the whole network, mask branch included, at every step, as
MONAI's SPADE networks do. Equality is checked first; without it there are no times. In processes of
their own, runs under several budgets show the memory that they add.

    python benchmarks/refiner.py --out report.json
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from race import machine, peak_gib, timed
from torch import Tensor

from common.data.datasets import load_arrays
from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.views import view_names
from common.diffusion.rng import STAGES, NoiseStream
from common.diffusion.samplers import sample
from common.engines.inferers import precision_context
from common.io.atomic import to_json, write_json
from common.stages import open_key
from sdm.refine import MOST_SLICES
from sdm.slices import ViewSlices

ATOL = {"fp32": 1e-4, "bf16": 5e-2}
BUDGETS_GB = (0.25, 0.5, 1.0, 2.0)
GUIDANCE = (1.0, 1.75)  # of the runs under budgets: one pass of the network, two passes


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", default="48x40x40")
    parser.add_argument("--memory-size", default="96x80x80", help="of the runs under budgets")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=sorted(ATOL))
    parser.add_argument("--num-steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak-of", type=float, help="only print the memory added under a budget")
    parser.add_argument("--guidance", type=float, default=1.0, help="with --peak-of")
    return parser.parse_args()


def opened(words: argparse.Namespace) -> Any:
    """Return the shipped stage with the benchmark's settings."""
    stage: Any = open_key("sdm_refiner", "stage", words.preset)
    stage.network.to(words.device)
    how = replace(
        stage.how,
        t_start=10,
        num_steps=words.num_steps,
        mode="mean",
        guidance_scale=words.guidance if words.peak_of else 1.0,
        sampler="ddim",
        precision=words.precision,
        memory_budget_gb=words.peak_of or 2.0,
    )
    return type(stage)(stage.network, stage.schema, how)


def phantom(size: str, schema: str) -> PairBatch:
    """Return one phantom with a grey image."""
    data = load_arrays(f"phantom:{schema}:{size}:1", "training")
    label = torch.from_numpy(data.labels[0])[None]
    depth, height, width = label.shape[1:]
    image = torch.from_numpy(data.images[0])[None] * 2 - 1
    spacing = data.spacing or (1.0, 1.0, 1.0)
    return PairBatch(
        (0,), 0, load_schema(schema), spacing, (depth, height, width), None, label, image
    )


@torch.no_grad()
def plain(stage: Any, batch: PairBatch) -> Tensor:
    """Refine slice by slice without keeping anything; the mean of the views, (1, D, H, W)."""
    network, how = stage.network, stage.how
    device = next(network.parameters()).device
    assert batch.label_VDHW is not None
    assert batch.image_VDHW is not None
    label, image = batch.label_VDHW.to(device), batch.image_VDHW[:, None].to(device)
    alpha, sigma = how.diffusion.schedule.alpha_sigma(how.timesteps[0])
    results = []
    for axis, view in enumerate(view_names(batch.schema.slice_axis)):
        slices = ViewSlices(axis, 1, label.shape[1 + axis])
        done = []
        for chunk in slices.chunks(1):
            x_0 = slices.take(image, chunk)
            mask = network.one_hot(slices.labels(label, chunk, network.mask_context))
            position = slices.positions(chunk).to(device)
            window = [int(chunk) + axis * MOST_SLICES]
            noise = NoiseStream(0, [0], STAGES["sdm"], window, x_0.shape[1:], device=device)

            def denoise(x: Tensor, t: Tensor, mask=mask, position=position, view=view) -> Tensor:  # type: ignore[no-untyped-def]
                with precision_context(device, how.precision):
                    return network(x, t.float(), mask, position, view).float()

            done.append(
                sample(
                    how.sampler,
                    denoise,
                    alpha * x_0 + sigma * noise(0, "init"),
                    how.diffusion.schedule,
                    how.timesteps,
                    noise=noise,
                    prediction=how.diffusion.prediction,
                )
            )
        results.append(slices.put(done))
    return torch.stack(results).mean(0)[:, 0].clamp(-1, 1).cpu()


def added_memory(stage: Any, batch: PairBatch, device: str) -> float:
    """Return the memory in GiB that a refinement of all views at once adds at its peak."""
    joint = type(stage)(stage.network, stage.schema, replace(stage.how, mode="joint"))
    return peak_gib(lambda: joint(batch), device)


def peaks(words: argparse.Namespace, guidance: float) -> dict[str, float]:
    """Return the added memory under several budgets, each in a process of its own."""
    options = ["--size", words.memory_size, "--preset", words.preset, "--device", words.device]
    options += ["--precision", words.precision, "--num-steps", "2", "--guidance", str(guidance)]
    found = {}
    for budget in BUDGETS_GB:
        command = [sys.executable, __file__, *options, "--peak-of", str(budget)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[str(budget)] = float(printed.splitlines()[-1])
    return found


def main() -> int:
    """Check, time, and write the report."""
    words = arguments()
    stage = opened(words)
    batch = phantom(words.size, stage.schema)
    if words.peak_of is not None:
        print(added_memory(stage, batch, words.device))
        return 0
    difference = float((stage(batch).image_VDHW - plain(stage, batch)).abs().max())
    if difference > ATOL[words.precision]:
        print(f"error: the two differ by {difference:g}, wanted {ATOL[words.precision]:g}")
        return 1
    forgetful = type(stage)(stage.network, stage.schema, replace(stage.how, keep_modulations=False))
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: stage(batch),
        "plain": lambda: plain(stage, batch),
        "batched, modulations computed at every step": lambda: forgetful(batch),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(words.repeats):
        for name, run in runs.items():
            times[name].append(timed(run, words.device))
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    report = {
        **machine(words.device),
        "precision": words.precision,
        "size": words.size,
        "num_steps": words.num_steps,
        "largest_difference": difference,
        "seconds": times,
        "ratio": {name: seconds / median["ours"] for name, seconds in median.items()},
        "memory_size": words.memory_size,
        "added_gib_by_guidance_and_budget_gb": {str(g): peaks(words, g) for g in GUIDANCE},
    }
    if words.out is not None:
        write_json(words.out, report)
    print(to_json(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
