"""R7: seconds and memory of each stage against the depth of the volume.

The depths run in turns; seconds are medians, and what counts is the seconds per slice that is
added from one depth to the next. Working memory is the peak of all tensors of a run less the
volumes that go in and come out: counted on a CPU, see `common.engines.footprint.LiveBytes`, asked
of CUDA otherwise. The refiner fills its budget, which holds three slices of the largest depth; in
one that holds less than two, the one slice that is always taken grows with the depth. Differences
of medians are noisy, so there are more turns than elsewhere.

    python benchmarks/r7_depth.py --stages mask,refine,volume --out r7.json
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from race import arguments, finish, open_parser, peak_gib, race

from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.phantom import make_phantom
from common.engines.footprint import LiveBytes
from gem3d.generate import InformedSlice

BUNDLES = {
    "mask": "mcdpm_mask",
    "image": "vid2vid_image",
    "refine": "sdm_refiner",
    "volume": "gem3d_volume",
}
STEPS = {"mask": 4, "volume": 4}  # the slope does not depend on them, the patience does


DEPTHS = {
    "mask": "46,94,190,382",  # 6 + 8k: every window of both directions is full
    "volume": "46,106,196,376",  # 16 + 30k, likewise
}
DEPTHS |= dict.fromkeys(("image", "refine"), "48,96,192,384")


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
        first = (depth - generator.sampler.window) // 2
        slice_ = InformedSlice(image_DHW[first], first, "phantom")
        return lambda: generator(label_DHW[None], [slice_], volumes=[0], seed=0), volumes
    made = parser.get_parsed_content("stage")
    if stage == "refine":
        made = type(made)(
            made.network, made.schema, replace(made.how, memory_budget_gb=words.budget)
        )
        volumes += image_DHW.nbytes  # in and out
    first = (depth - made.sampler.window) // 2 if stage == "mask" else depth // 2
    batch = PairBatch((0,), 0, schema, (4.0, 4.0, 4.0), size, (first,))
    if stage != "mask":
        batch = replace(batch, label_VDHW=label_DHW[None], image_VDHW=image_DHW[None])
    return lambda: made(batch), volumes


def working_gib(run: Any, volumes: int, device: str) -> float:
    """Return the memory that a run needs beside its volumes, GiB."""
    if device == "cuda":
        return peak_gib(run, device) - volumes / 2**30
    counted = LiveBytes()
    with counted, torch.no_grad():
        run()
    return (counted.peak - volumes) / 2**30


def measured(stage: str, words: Any) -> dict[str, Any]:
    """Measure all depths of a stage."""
    depths = [int(word) for word in (words.depths or DEPTHS[stage]).split(",")]
    opened = {depth: open_run(stage, depth, words) for depth in depths}
    memory = {d: working_gib(run, volumes, words.device) for d, (run, volumes) in opened.items()}
    times = race({str(d): opened[d][0] for d in depths}, words.repeats, words.device)
    seconds = [times[str(d)]["seconds"] for d in depths]
    pairs = itertools.pairwise(zip(depths, seconds, strict=True))
    steps = [(after - before) / (d - c) for (c, before), (d, after) in pairs]
    deep = [memory[d] for d in depths[1:]]
    return {
        "depths": [{"depth": d, **times[str(d)], "working_gib": memory[d]} for d in depths],
        "seconds_per_added_slice": steps,
        "slope_spread": max(steps) / min(steps) - 1,
        "memory_spread": max(deep) / min(deep) - 1,
    }


def main() -> None:
    """Measure all stages."""
    parser = arguments(
        __doc__.splitlines()[0],
        stages="mask,refine,volume",
        depths="",
        side=40,
        budget=0.5,
    )
    parser.set_defaults(repeats=11)
    words = parser.parse_args()
    found = {stage: measured(stage, words) for stage in words.stages.split(",")}
    finish(words, {"benchmark": "R7 depth", "stages": found})


if __name__ == "__main__":
    main()
