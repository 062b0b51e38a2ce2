r"""GEM-3D's Table 4: nnU-Net on real scans, on reconstructions, on scans re-sampled 1x to Kx.

Trains nnU-Net itself (package nnunetv2) on each data set, for every seed, and scores it on the
kept-back real scans: mean Dice and HD95 over the schema's groups, or labels where it has none. The
paper has no row of real and re-sampled scans together; it is added here. Finished parts are kept:
started again, it goes on.

    python benchmarks/resampling.py --real PAIRSET --resampled ENHANCED --mav ENHANCED_BY_MAV \
        --out DIR --device cuda

PAIRSET is what `medpair prepare` writes, ENHANCED what `medpair enhance --times 3` makes of it. The
same table with our own networks: `medpair compare` with the strategies resampled-1x, -2x, -3x.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tables import table

from common.data.datasets import PairSet
from common.errors import MedpairError
from common.metrics.values import Value, mean_of
from common.stages import open_workflow, plain_errors

BUNDLE = "segmentation_eval"
NO_OVERLAY = ""
COLUMNS = ("training data", "pairs", "seeds", "Dice %", "sd", "HD95 mm")
NOTHING = "no seed has a number"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", required=True, help="pair set of real scans, some kept back")
    parser.add_argument("--resampled", required=True, help="pair set by medpair enhance --times K")
    parser.add_argument("--mav", help="the same by Make-A-Volume, once per mask")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=250, help="updates per epoch")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--workers", type=int, default=0, help="processes that augment")
    parser.add_argument("--device", help="cpu or cuda; default: what there is")
    return parser.parse_args()


def turns(resampled: str) -> int:
    """Return how often every mask was re-sampled."""
    pairs = PairSet.open(resampled)
    records = [pairs.record(name) for name in pairs.ids()]
    masks = Counter(str(record["source"]["mask"]) for record in records if _has_mask(record))
    if not masks:
        raise MedpairError(f"{resampled}: no re-sampled pair; make it with medpair enhance")
    return min(masks.values())


def _has_mask(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("source"), dict) and "mask" in record["source"]


def data_sets(words: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what each row trains on, as overrides of ``nnunet.yaml``."""
    rows: dict[str, dict[str, Any]] = {"real": {"dataset_dir": words.real}}
    if words.mav:
        rows["MAV"] = {"dataset_dir": words.mav, "test_dir": words.real, "copies": 1}
    most = turns(words.resampled)
    for k in range(1, most + 1):
        rows[f"{k}x"] = {"dataset_dir": words.resampled, "test_dir": words.real, "copies": k}
    rows[f"real + {most}x"] = {"dataset_dir": words.real, "add": [words.resampled], "copies": most}
    return rows


def train(words: argparse.Namespace, data: Mapping[str, Any], work: Path, seed: int) -> Any:
    """Return the report of a row and seed; finished steps are not done again."""
    overrides = {
        **data,
        "output_dir": str(work.absolute()),
        "seed": seed,
        "epochs": words.epochs,
        "iterations": words.iterations,
        "configuration": words.configuration,
        "workers": words.workers,
        **({"device": words.device} if words.device else {}),
    }
    with plain_errors():
        open_workflow(BUNDLE, "nnunet", NO_OVERLAY, overrides).run()
    return json.loads((work / "nnunet.json").read_text(encoding="utf-8"))


def row(name: str, reports: list[Any]) -> dict[str, Any]:
    """Return a row of the table: means over the seeds, of all groups and of each."""
    family = "groups" if "groups" in reports[0] else "labels"
    means = [report[f"{family}_mean" if family == "groups" else "mean"] for report in reports]
    dice = [100 * m["dice"] for m in means if not isinstance(m["dice"], str)]
    parts = {part: [r[family][part]["dice"] for r in reports] for part in reports[0][family]}
    return {
        "training data": name,
        "pairs": reports[0]["n_training"],
        "seeds": len(reports),
        "Dice %": mean_of(dice, NOTHING),
        "sd": float(np.std(dice, ddof=1)) if len(dice) > 1 else "one seed",
        "HD95 mm": mean_of([m["hd95_mm"] for m in means], NOTHING),
        **{f"Dice {part}": _percent(values) for part, values in parts.items()},
    }


def _percent(values: list[Value]) -> Value:
    mean = mean_of(values, NOTHING)
    return mean if isinstance(mean, str) else 100 * mean


def main() -> None:
    """Train what is missing and write ``resampling.md`` after every row."""
    words = arguments()
    words.real, words.resampled = (str(Path(p).absolute()) for p in (words.real, words.resampled))
    words.mav = str(Path(words.mav).absolute()) if words.mav else None
    found = []
    for name, data in data_sets(words).items():
        folder = words.out / name.replace(" ", "")
        reports = [train(words, data, folder / f"seed{seed}", seed) for seed in words.seeds]
        found.append(row(name, reports))
        columns = [*COLUMNS, *(key for key in found[0] if key not in COLUMNS)]
        (words.out / "resampling.md").write_text(table(found, columns), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except MedpairError as error:
        sys.exit(f"error: {error}")
