"""Where the time of a generation goes: seconds per stage, and kinds of operations within.

One batch runs through the stages of a pipeline twice, the second time under torch's profiler. What
no operation of torch accounts for is called "python and waiting".

    python benchmarks/profile_stages.py --pipeline medgen3d --out profile.json
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial
from typing import Any

import torch
from race import arguments, finish
from torch.profiler import ProfilerActivity, profile

from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.pipeline import preset_geometry, read_pipeline
from common.stages import open_stage

KINDS = {
    "convolution": ("conv",),
    "matrix product": ("addmm", "mm", "bmm", "linear", "matmul"),
    "attention": ("attention",),
    "normalisation": ("norm",),
    "layout and copies": ("copy_", "cat", "contiguous", "clone", "index", "stack", "_to_copy"),
}


def kind_of(name: str) -> str:
    """Return the kind of an operation of torch."""
    plain = name.removeprefix("aten::")
    found = (kind for kind, words in KINDS.items() if any(word in plain for word in words))
    return next(found, "elementwise and other")


def shares(run: Any, device: str) -> dict[str, Any]:
    """Profile a run; return its seconds, and the share of each kind."""
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    began = time.perf_counter()
    with profile(activities=activities) as profiled:
        run()
    wall = time.perf_counter() - began
    spent: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        if event.key.startswith("aten::") or device == "cuda":
            spent[kind_of(event.key)] += own / 1e6
    rest = max(0.0, wall - sum(spent.values()))
    spent["python and waiting"] = rest
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return {"profiled_seconds": wall, "share": {k: round(v / wall, 3) for k, v in ordered}}


def main() -> None:
    """Profile every stage."""
    words = arguments(__doc__.splitlines()[0], pipeline="medgen3d").parse_args()
    config = read_pipeline(words.pipeline)
    geometry = preset_geometry(config["presets"], words.preset)
    volumes = tuple(range(geometry.batch_volumes))
    schema = load_schema(geometry.schema)
    batch = PairBatch(volumes, 0, schema, geometry.spacing, geometry.size)
    found: dict[str, Any] = {}
    for entry in config["stages"]:
        stage = open_stage(entry["bundle"], words.preset).run
        began = time.perf_counter()
        after = stage(batch)
        seconds = time.perf_counter() - began
        found[entry["name"]] = {
            "seconds": seconds,
            **shares(partial(stage, batch), words.device),
        }
        batch = after
    whole = sum(stage["seconds"] for stage in found.values())
    for stage in found.values():
        stage["share_of_all"] = round(stage["seconds"] / whole, 3)
    finish(words, {"benchmark": "profile", "volumes": len(volumes), "stages": found})


if __name__ == "__main__":
    torch.set_grad_enabled(mode=False)
    main()
