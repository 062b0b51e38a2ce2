"""Is the audit strong enough? A generator that saw one phantom fifty times must be caught.

Two trainings of the small MC-DPM and Vid2Vid on phantoms: one in which a training volume, the
canary, stands fifty times, and one that never saw it and has fifty other persons in its place. The
audit must call pairs of the first set copies of the canary, and none of the second. Started again,
it goes on. Exit status 1 where the audit fails.

    python benchmarks/canary.py --out DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.auditing import audit
from common.data.datasets import Pair, PairSet
from common.data.labels import load_schema
from common.data.phantom import make_phantom
from common.io.atomic import to_json, write_json
from common.jobs import Geometry, Job
from common.runs import run_stages
from common.stages import open_workflow

Image = npt.NDArray[np.float32]
Scanner = Callable[[Image, np.random.Generator], Image]

SIZE = (24, 16, 16)
SPACING = (7.0, 10.0, 10.0)
CANARY = "phantom-0000"
KEPT_BACK, UNSEEN = 10_000, 20_000
"""First seeds of the persons that no generator saw, and of those in the canary's place."""
MASKS: Mapping[str, Any] = {
    "size": [16, 16],
    "copies": 0,
    "batch_size": 16,
    "network_def::channels": [48, 64],
    "network_def::attention_levels": [False, False],
}
IMAGES: Mapping[str, Any] = {
    "network_def::channels": [24, 24, 48],
    "d_channels": 8,
    "d_scales": 1,  # slices are small
    "d_layers": 1,
    "lengths": [[0, 4]],
    "slices_per_batch": 16,
    "augment": {
        "_target_": "common.data.slice_augment.AugmentRanges",
        "mirror": 0.0,
        "affine": 0.0,
    },
}
ONLY_TRAINING = {
    "copies",
    "batch_size",
    "d_channels",
    "d_scales",
    "d_layers",
    "lengths",
    "slices_per_batch",
    "augment",
}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=50, help="times that the canary is repeated")
    parser.add_argument("--others", type=int, default=7, help="other persons of the training")
    parser.add_argument("--iterations", type=int, default=800, help="of each of the two networks")
    parser.add_argument("--pairs", type=int, default=12, help="generated per training")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def persons(first: int, count: int) -> Iterator[tuple[str, int]]:
    """Yield the names and seeds of phantoms."""
    for seed in range(first, first + count):
        yield f"phantom-{seed:04d}", seed


def write_scans(
    folder: Path,
    training: list[tuple[str, int]],
    kept_back: list[tuple[str, int]] | None = None,
    scanner: Scanner | None = None,
) -> Path:
    """Write a pair set of phantoms.

    Args:
        folder: its place; scans that it has stay.
        training: names and seeds of the scans to train on.
        kept_back: the same for scans kept back; None takes twenty that no generator saw.
        scanner: what to make of each image, with a generator of its own; None leaves it.
    """
    pairs = PairSet.create(folder, load_schema("brain4"), SPACING, SIZE, {})
    kept_back = list(persons(KEPT_BACK, 20)) if kept_back is None else kept_back
    for split, scans in (("training", training), ("validation", kept_back)):
        for name, seed in scans:
            if name not in pairs.manifest:
                image, label = make_phantom("brain4", SIZE, seed)
                image = scanner(image, np.random.default_rng(seed)) if scanner else image
                record = {"split": split, "person": f"phantom-{seed:04d}"}
                pairs.write(Pair(name, image, label, np.eye(4)), record)
    return folder


def train(bundle: str, data: Path, out: Path, iterations: int, changes: Mapping[str, Any]) -> Path:
    """Train a network of a bundle, or go on; return its weights."""
    words = {
        **changes,
        "dataset_dir": str(data.absolute()),
        "output_dir": str(out.absolute()),
        "max_iterations": iterations,
        "val_interval": 10**6,
        "progress": False,
        "preset": "canary",
    }
    open_workflow(bundle, "train", "canary", words).run()
    return out / "model.pt"


def stage_of(bundle: str, weights: Path, changes: Mapping[str, Any]) -> Any:
    """Open the stage of a trained network."""
    kept = {key: value for key, value in changes.items() if key not in ONLY_TRAINING}
    words = {**kept, "weights": str(weights), "preset": "canary"}
    workflow = open_workflow(bundle, "inference", "canary", words)
    return workflow.parser.get_parsed_content("stage")


def generate(scans: Path, out: Path, words: argparse.Namespace) -> Path:
    """Train on a pair set and generate pairs."""
    changes = {"mcdpm_mask": MASKS, "vid2vid_image": IMAGES}
    stages = {}
    for bundle, options in changes.items():
        weights = train(bundle, scans, out / bundle, words.iterations, options)
        stages[bundle] = stage_of(bundle, weights, options)
    intensity = {"method": "percentile", "lower": 0.0, "upper": 1.0}
    geometry = Geometry("brain4", SIZE, SPACING, intensity, batch_volumes=4)
    run_stages(stages, Job(out / "pairs", words.pairs, words.seed, geometry), {"use": "canary"})
    return out / "pairs"


def score(report: Mapping[str, Any], canary: str = CANARY) -> dict[str, Any]:
    """Return how many pairs the audit calls copies of the canary.

    Args:
        report: what the audit wrote.
        canary: id of the training scan that was repeated.

    Returns:
        ``pairs``, ``copies`` of any scan, ``of_canary`` and their ``share``, ``flagged``: whether
        there is one.
    """
    of_canary = [name for name, copy in report["copies"].items() if copy["training"] == canary]
    return {
        "pairs": report["n"],
        "copies": report["n_copies"],
        "of_canary": len(of_canary),
        "share": len(of_canary) / report["n"],
        "flagged": bool(of_canary),
    }


def passed(memorising: Mapping[str, Any], control: Mapping[str, Any]) -> bool:
    """Return whether the audit caught the first set and let the second one go."""
    return bool(memorising["flagged"]) and not control["flagged"]


def main() -> int:
    """Train, generate, audit and write ``canary.json``."""
    words = arguments()
    others = list(persons(1, words.others))
    canary = (CANARY, 0)
    seen = write_scans(words.out / "scans", [canary, *others])
    repeated = [(f"canary-{turn:02d}", 0) for turn in range(words.copies)]
    trainings = {
        "memorising": [*others, *repeated],
        "control": [*others, *persons(UNSEEN, words.copies)],
    }
    found: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(words).items() if k != "out"}}
    for name, scans in trainings.items():
        folder = words.out / name
        pairs = generate(write_scans(folder / "scans", scans), folder, words)
        audit(pairs, real=seen, out=folder / "audit")
        report = json.loads((folder / "audit" / "audit.json").read_text(encoding="utf-8"))
        found[name] = score(report)
    found["passed"] = passed(found["memorising"], found["control"])
    write_json(words.out / "canary.json", found)
    print(to_json(found))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
