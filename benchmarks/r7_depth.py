"""R7: seconds and memory of each stage against the depth of the volume.

Each depth runs in a process of its own, so that the peak of memory is its own: that of the process
beyond what it held before, less the volumes that go in and come out. Seconds are the least of some
runs; what counts is the seconds per slice that is added from one depth to the next.

    python benchmarks/r7_depth.py --stages mask,refine,volume --depths 48,96,192,384 --out r7.json
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import torch
from race import arguments, finish, in_process, open_parser, peak_gib, timed

from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.phantom import make_phantom
from gem3d.generate import InformedSlice

BUNDLES = {
    "mask": "mcdpm_mask",
    "image": "vid2vid_image",
    "refine": "sdm_refiner",
    "volume": "gem3d_volume",
}
STEPS = {"mask": 4, "volume": 4}  # the slope does not depend on them, the patience does


def open_run(stage: str, depth: int, words: Any) -> Any:
    """Return what makes one volume of a depth, and the bytes of the volumes in and out."""
    settings = {"num_steps": STEPS[stage]} if stage in STEPS else {}
    parser = open_parser(BUNDLES[stage], words.preset, **settings)
    schema = load_schema("brain4")
    side = words.side
    # a phantom in the depth of 48 repeated, so that every depth is the same work per slice
    image, label = make_phantom(schema, (48, side, side), 0)
    image_DHW = torch.from_numpy(image).repeat(-(-depth // 48), 1, 1)[:depth].float() * 2 - 1
    label_DHW = torch.from_numpy(label).repeat(-(-depth // 48), 1, 1)[:depth]
    size = (depth, side, side)
    volumes = label_DHW.nbytes + (0 if stage == "mask" else image_DHW.nbytes)
    if stage == "volume":
        from gem3d.generate import VolumeGenerator

        parts = [parser.get_parsed_content(k) for k in ("network", "encoding", "sampler", "chunk")]
        generator = VolumeGenerator(parts[0].eval(), *parts[1:])
        slice_ = InformedSlice(image_DHW[24], 24, "phantom")
        return lambda: generator(label_DHW[None], [slice_], volumes=[0], seed=0), volumes
    made = parser.get_parsed_content("stage")
    if stage == "refine":
        made = type(made)(
            made.network, made.schema, replace(made.how, memory_budget_gb=words.budget)
        )
        volumes += image_DHW.nbytes  # in and out
    batch = PairBatch((0,), 0, schema, (4.0, 4.0, 4.0), size, (depth // 2,))
    if stage != "mask":
        batch = replace(batch, label_VDHW=label_DHW[None], image_VDHW=image_DHW[None])
    return lambda: made(batch), volumes


def one(stage: str, depth: int, words: Any) -> dict[str, float]:
    """Measure one depth in this process."""
    run, volumes = open_run(stage, depth, words)
    warm, _ = open_run(stage, 32, words)
    warm()
    peak = peak_gib(run, words.device) - volumes / 2**30
    seconds = min(timed(run, words.device) for _ in range(words.repeats))
    return {"depth": depth, "seconds": seconds, "working_gib": peak}


def slopes(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return seconds per added slice between depths, and how far they and the memory spread."""
    steps = [
        (b["seconds"] - a["seconds"]) / (b["depth"] - a["depth"])
        for a, b in itertools.pairwise(rows)
    ]
    memory = [row["working_gib"] for row in rows if row["depth"] >= 96]
    return {
        "depths": rows,
        "seconds_per_added_slice": steps,
        "slope_spread": max(steps) / min(steps) - 1,
        "memory_spread_from_96": max(memory) / min(memory) - 1,
    }


def main() -> None:
    """Measure all depths, each in its own process."""
    parser = arguments(
        __doc__.splitlines()[0],
        stages="mask,refine,volume",
        depths="48,96,192,384",
        side=40,
        budget=0.25,
        only="",
    )
    words = parser.parse_args()
    if words.only:
        stage, depth = words.only.split(":")
        print(json.dumps(one(stage, int(depth), words)))
        return
    shared = ["--preset", words.preset, "--side", str(words.side), "--device", words.device]
    shared += ["--budget", str(words.budget), "--repeats", str(words.repeats)]
    found = {
        stage: slopes(
            [
                json.loads(in_process(__file__, [*shared, "--only", f"{stage}:{depth}"]))
                for depth in words.depths.split(",")
            ]
        )
        for stage in words.stages.split(",")
    }
    finish(words, {"benchmark": "R7 depth", "stages": found})


if __name__ == "__main__":
    main()
