r"""Dataset enhancement, the paper's Table 1: MAV, IG and IC, with and without mask augmentation.

Every training mask gets one new image per setting; their distances to the training scans stand
beside that of kept-back scans to the training scans (the floor), and beside a copy test. Brightness
is the median of a body: how far it varies between volumes, and how far it jumps from slice to slice
of a volume, both over those of the training scans. Finished sets are kept: started again, it goes
on. The networks should come from one training budget, as `benchmarks/volumes.py` gives them.

    python benchmarks/enhancement.py --data PAIRSET --gem PT --mav PT --out DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from parts import SEGMENTER, SHOWN, of_schema, segmenter_of, shipped_part
from tables import write_table

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.engines.shards import read_state
from common.engines.weights import read_card
from common.io.atomic import write_json
from common.io.manifest import sha256
from common.metrics.extractors import MapExtractor
from common.metrics.image_report import ImageSet, judge_images, read_images
from common.stages import open_key, open_workflow

BUNDLE = "gem3d_volume"
MAV = {
    "informed_injection": "none",
    "use_informed": False,
    "overlapped_inpainting": False,
    "slice_generator_def": None,
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "MAV": MAV,
    "MAV + MA": MAV,
    "IG": {"informed": "generated"},
    "IG + MA": {"informed": "generated"},
    "IC": {"informed": "cross"},
    "IC + MA": {"informed": "cross"},
}
COLUMNS = (
    "setting", "FID A", "FID C", "FID S", "FID/floor A", "FID/floor C", "FID/floor S",
    "brightness between volumes", "brightness steps", "odd_even D",
    "copies near the informed slice", "copies elsewhere", "Dice",
)  # fmt: skip


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="pair set of real scans")
    parser.add_argument("--gem", type=Path, required=True, help="weights of GEM-3D")
    parser.add_argument("--mav", type=Path, required=True, help="weights of Make-A-Volume")
    parser.add_argument("--slice-generator", type=Path, help="its weights; default: the shipped")
    parser.add_argument("--mask-augmentation", type=Path, help="YAML file; default: the schema's")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--weights", help="folder of the segmenter's weights; default: shipped")
    return parser.parse_args()


def with_slice_generator(words: argparse.Namespace, path: Path) -> Path:
    """Write GEM-3D's weights together with those of a slice generator of the same autoencoder."""
    state, given = read_state(words.gem), words.slice_generator
    extra = given and read_state(given)
    extra = extra or shipped_part("slice_generator", words.preset)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**state, **{f"slice_generator.{k}": v for k, v in extra.items()}}, path)
    write_json(path.with_suffix(".json"), {**read_card(words.gem), "sha256": sha256(path)})
    return path


def make(words: argparse.Namespace, name: str, weights: Path) -> Path:
    """Make the pair set of a setting, or what it lacks."""
    out = words.out / name.replace(" ", "")
    overrides: dict[str, Any] = {
        "dataset_dir": words.data,
        "output_dir": str(out),
        "weights": str(weights),
        "segmenter": None,  # judged below
        **of_schema(words.data),
        **SETTINGS[name],
    }
    if name.endswith("MA"):
        presets = bundles_dir() / BUNDLE / "mask_augmentation"
        path = words.mask_augmentation or presets / f"{overrides['schema']}.yaml"
        overrides |= yaml.safe_load(path.read_text(encoding="utf-8"))
    open_workflow(BUNDLE, "enhance", words.preset, overrides).run()
    return out


def brightness(scans: ImageSet) -> tuple[float, float]:
    """Return the spread of the volumes' medians and the mean spread of steps between slices'."""
    volumes, steps = [], []
    for image, label in zip(scans.images, scans.labels, strict=True):
        volumes.append(np.median(image[label > 0]))
        shown = [(a, b > 0) for a, b in zip(image, label, strict=True) if (b > 0).sum() >= SHOWN]
        steps.append(np.std(np.diff([np.median(a[b]) for a, b in shown])))
    return float(np.std(volumes)), float(np.mean(steps))


def judge(words: argparse.Namespace, name: str, out: Path) -> dict[str, Any]:
    """Return the row of a finished setting."""
    made = read_images(out)
    # the masks are those of training persons, whom the paper's distance is measured against
    made = replace(made, persons=list(made.ids))
    features = open_key(SEGMENTER, "features", words.preset, words.weights)
    held_out, training = (read_images(words.data, split) for split in ("validation", "training"))
    report: Any = judge_images(
        made,
        held_out,
        PairSet.open(words.data).schema,
        training=training,
        extractors=[MapExtractor(features, "e")],
        segment=segmenter_of(words.data, words.preset, words.weights),
    )
    views = report["features"]["e"]["views"]
    copies = json.loads((out / "enhance.json").read_text(encoding="utf-8"))["copies"]["detail"]
    alignment = report["alignment"]
    spread, steps = (a / b for a, b in zip(brightness(made), brightness(training), strict=True))
    return {
        "setting": name,
        **{f"FID {v}": views[v]["fid"]["distance"] for v in "ACS"},
        **{f"FID/floor {v}": views[v]["fid"]["ratio"] for v in "ACS"},
        "brightness between volumes": spread,
        "brightness steps": steps,
        "copies near the informed slice": copies["near_informed"]["share_above"],
        "copies elsewhere": copies["elsewhere"]["share_above"],
        "Dice": alignment if isinstance(alignment, str) else alignment["mean"]["dice"],
        "odd_even D": report["consistency"]["D"]["odd_even"],
    }


def main() -> None:
    """Make what is missing and write ``enhancement.md``."""
    words = arguments()
    gem = with_slice_generator(words, words.out / "weights" / "gem.pt")
    found = []
    for name in SETTINGS:
        out = make(words, name, words.mav if name.startswith("MAV") else gem)
        found.append(judge(words, name, out))
        sys.stderr.write(f"{found[-1]}\n")
        write_table(words.out / "enhancement", found, COLUMNS)


if __name__ == "__main__":
    main()
