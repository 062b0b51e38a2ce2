"""Peak memory of each stage of a pipeline at a preset: what `memory_gib` in `bundles/*.yaml` says.

One batch of the preset's size runs through the stages on the CPU, in a process of its own for each
preset. Stages whose weights do not ship get random ones, and fewer steps of diffusion (`--steps`):
neither changes the peak. Every stage after the first gets phantom masks. The peak is that of the
whole process, so it holds Python, the libraries and all networks.

    python benchmarks/memory.py medgen3d tiny
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.phantom import make_phantom
from common.engines.weights import save_weights
from common.errors import MedpairError
from common.gating import is_gate
from common.jobs import Geometry
from common.pipeline import preset_geometry, read_pipeline
from common.running import counted_gib
from common.runs import through
from common.stages import open_workflow, weights_path


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline")
    parser.add_argument("preset")
    parser.add_argument("--count", action="store_true", help="from shapes; takes no time or memory")
    parser.add_argument("--steps", type=int, help="of diffusion; default: the config's")
    return parser.parse_args()


def weights_for(bundle: str, preset: str, folder: Path) -> Path:
    """Return the weights that ship, or random ones written into a folder."""
    try:
        return weights_path(bundle, preset)
    except MedpairError:
        parser = open_workflow(bundle, "inference", preset, {}).parser
        path = folder / bundle / "model.pt"
        card = {"schema": parser.get_parsed_content("schema"), "preset": preset}
        save_weights(parser.get_parsed_content("network_def"), path, card)
        return path


def open_stage(bundle: str, preset: str, folder: Path, steps: int | None) -> Any:
    """Return a bundle's stage."""
    words: dict[str, Any] = {"weights": str(weights_for(bundle, preset, folder)), "preset": preset}
    if steps is not None and bundle != "sdm_refiner":  # one step by default
        words["num_steps"] = steps
    return open_workflow(bundle, "inference", preset, words).parser.get_parsed_content("stage")


def first_batch(geometry: Geometry, empty: bool) -> tuple[PairBatch, torch.Tensor]:
    """Return an empty batch and phantom masks for it, or none."""
    schema = load_schema(geometry.schema)
    volumes = tuple(range(geometry.batch_volumes))
    made = [] if empty else volumes
    masks = np.stack([make_phantom(schema, geometry.size, v)[1] for v in made] or [0])
    batch = PairBatch(volumes, 0, schema, geometry.spacing, geometry.size)
    return batch, torch.from_numpy(masks)


def main() -> None:
    """Measure and print a line for the pipeline's file."""
    args = arguments()
    config = read_pipeline(args.pipeline)
    batch, masks = first_batch(preset_geometry(config["presets"], args.preset), args.count)
    entries = [s for s in config["stages"] if not is_gate(s) or args.preset in s["by_default"]]
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        opened = {
            s["name"]: open_stage(s["bundle"], args.preset, Path(folder), args.steps)
            for s in entries
        }
        if args.count:
            geometry = preset_geometry(config["presets"], args.preset)
            gib = {n: round(counted_gib({n: s}, geometry), 2) for n, s in opened.items()}
            print(f"{args.pipeline} {args.preset}: counted_gib: {gib}")
            return
        for name, stage in opened.items():
            batch, (log,) = through({name: stage}, batch, lambda _name, _done: None)
            peaks[name] = round(log["peak_memory_gb"], 2)
            print(f"{name}: {log}", flush=True)
            batch = replace(batch, label_VDHW=masks)
    found = ", ".join(f"{name}: {peak}" for name, peak in peaks.items())
    print(f"{args.pipeline} {args.preset}: memory_gib: {{{found}}}")


if __name__ == "__main__":
    main()
