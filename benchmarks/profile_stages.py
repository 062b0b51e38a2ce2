"""Where the time of a generation goes: seconds per stage, and kinds of operations within.

One batch runs through the stages of a pipeline twice, the second time under torch's profiler. What
no operation of torch accounts for is called "python and waiting". Weights that do not ship are
random ones, whose masks phantoms replace. Windows and slices cost the same in shallow volumes, so a
large preset can be profiled with ``--depth``.

    python benchmarks/profile_stages.py --pipeline medgen3d --out profile.json
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from memory import first_batch
from race import arguments, finish, open_parser
from torch.profiler import ProfilerActivity, profile

from common.gating import BY_DEFAULT
from common.pipeline import preset_geometry, read_pipeline

SHIPPED = ("tiny",)
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
    parser = arguments(__doc__.splitlines()[0], pipeline="medgen3d", depth=0)
    words = parser.parse_args()
    config = read_pipeline(words.pipeline)
    geometry = preset_geometry(config["presets"], words.preset, words.depth or None)
    batch, phantoms = first_batch(geometry, empty=False)
    found: dict[str, Any] = {}
    for entry in config["stages"]:
        if words.preset not in entry.get(BY_DEFAULT, [words.preset]):
            continue
        stage = open_parser(entry["bundle"], words.preset).get_parsed_content("stage")
        began = time.perf_counter()
        after = stage(batch)
        seconds = time.perf_counter() - began
        found[entry["name"]] = {
            "seconds": seconds,
            **shares(partial(stage, batch), words.device),
        }
        batch = after if words.preset in SHIPPED else replace(after, label_VDHW=phantoms)
    whole = sum(stage["seconds"] for stage in found.values())
    for stage in found.values():
        stage["share_of_all"] = round(stage["seconds"] / whole, 3)
    finish(words, {"benchmark": "profile", "volumes": len(batch.volumes), "stages": found})


if __name__ == "__main__":
    torch.set_grad_enabled(mode=False)
    main()
