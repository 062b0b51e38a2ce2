"""Which refinement is best? t_start x mode on the masks of kept-back real scans.

Refines one image per mask with every setting and judges it as `benchmarks/images.py` does;
writes a table. Finished settings are kept: started again, it goes on.

    python benchmarks/refiner_ablation.py --data REAL --images OF_VID2VID --out DIR
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.datasets import PairSet
from common.data.pairs import PairBatch
from common.errors import MedpairError
from common.io.atomic import atomic_path, write_json
from common.metrics.extractors import MapExtractor
from common.metrics.image_report import judge_images, read_images, scans_of
from common.metrics.realism import scored_labels
from common.stages import open_key

MODES = ("mean", "mean_shared_noise", "joint", "cycle")
STARTS = (5, 10, 25, 50, 100, 200)
PLAIN = {"sampler": "ddim", "guidance_scale": 1.0}
GUIDED = (  # t_start, steps, mode, guidance
    (10, 1, "mean", 1.5), (10, 1, "mean", 1.75), (10, 1, "mean", 2.0), (10, 1, "mean", 3.0),
    (10, 2, "mean", 2.0), (10, 3, "mean", 2.0), (25, 1, "mean", 2.0), (25, 2, "mean", 2.0),
    (10, 1, "joint", 2.0), (10, 1, "joint", 3.0), (10, 3, "joint", 1.5), (25, 2, "joint", 2.0),
    (25, 2, "joint", 3.0),
)  # fmt: skip
EXTRA = (
    {"t_start": 10, "num_steps": 10, "mode": "mean", "sampler": "ddpm"},  # the paper's
    {"t_start": 10, "num_steps": 10, "mode": "mean"},
    {"t_start": 10, "num_steps": 1, "mode": "mean"},
    {"t_start": 10, "num_steps": 10, "mode": "joint"},
)
COLUMNS = (
    "t_start", "steps", "mode", "sampler", "guidance", "FID / floor", "MS-SSIM", "SSIM", "PSNR",
    "median error", "IQR error", "odd_even", "Dice", "seconds",
)  # fmt: skip


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="pair set of real scans")
    parser.add_argument(
        "--images", required=True, help="pair set with images of the kept-back masks"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--weights", help="folder that `medpair train` wrote; default: shipped")
    return parser.parse_args()


class Judge:
    """The scans, the images before the refinement, and everything that judges."""

    def __init__(self, words: argparse.Namespace) -> None:
        pairs = PairSet.open(words.data)
        self.schema, self.spacing = pairs.schema, pairs.spacing or (1.0, 1.0, 1.0)
        self.before = read_images(words.images)
        self.held_out, self.training = (
            read_images(words.data, s) for s in ("validation", "training")
        )
        scans = scans_of(self.before, self.held_out)
        if scans is None:
            raise MedpairError(
                f"--images: {words.images} holds masks that are not those of kept-back scans of "
                f"{words.data}; want images of these; docs/benchmarks/refiner.md makes them"
            )
        self.real = scans
        name = f"encoder of segmentation_eval, {words.preset}"
        self.features = MapExtractor(open_key("segmentation_eval", "features", words.preset), name)
        self.segment = open_key("segmentation_eval", "segment", words.preset)

    def batch(self) -> PairBatch:
        """Return masks and images as a pipeline's stage takes them."""
        label = torch.from_numpy(np.stack(self.before.labels))
        depth, height, width = label.shape[1:]
        return PairBatch(
            volumes=tuple(range(len(label))),
            seed=0,
            schema=self.schema,
            spacing=self.spacing,
            size=(depth, height, width),
            label_VDHW=label,
            image_VDHW=torch.from_numpy(np.stack(self.before.images)) * 2 - 1,
        )

    def row(self, images: list[np.ndarray]) -> dict[str, float]:
        """Return the numbers of a table row."""
        report: dict[str, Any] = judge_images(
            replace(self.before, images=images),
            self.held_out,
            self.schema,
            real=self.real,
            training=self.training,
            extractors=[self.features],
            segment=self.segment,
        )
        paired, scores = report["fidelity"], report["fidelity"]["mean"]["3D"]
        errors = [paired["intensity"][item.name] for item in scored_labels(self.schema)]
        smooth = [axis["odd_even"] for axis in report["consistency"].values()]
        return {
            "FID / floor": report["features"][self.features.name]["mean"]["fid"]["ratio"],
            "MS-SSIM": scores["ms_ssim"],
            "SSIM": scores["ssim"],
            "PSNR": scores["psnr"],
            "median error": float(np.mean([e["median"] for e in errors])),
            "IQR error": float(np.mean([e["iqr"] for e in errors])),
            "odd_even": float(np.mean(smooth)),
            "Dice": report["alignment"]["mean"]["dice"],
        }


def settings() -> list[dict[str, Any]]:
    """Return every setting: a grid without guidance, some guided, some with the paper's steps."""
    grid = [{"t_start": t, "num_steps": 3, "mode": mode} for t in STARTS for mode in MODES]
    names = ("t_start", "num_steps", "mode", "guidance_scale")
    guided = [dict(zip(names, values, strict=True)) for values in GUIDED]
    return [*(PLAIN | e for e in [*EXTRA, *grid]), *(PLAIN | e for e in guided)]


def main() -> int:
    """Run what is missing and write ablation.json and ablation.md."""
    words = arguments()
    try:
        judge = Judge(words)
    except MedpairError as error:
        print(f"error: {error}")
        return 1
    stage = open_key("sdm_refiner", "stage", words.preset, words.weights)
    assert stage is not None
    batch = judge.batch()
    path = words.out / "ablation.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not rows:
        rows = [{"mode": "before", **judge.row(list(judge.before.images))}]
    for entry in settings():
        if any(row.get("entry") == entry for row in rows):
            continue
        how = replace(stage.how, **entry)
        refiner = type(stage)(stage.network, stage.schema, how)
        refined = refiner(batch).image_VDHW
        images = list(((refined + 1) / 2).clamp(0, 1).numpy())
        seconds = seconds_of(refiner, batch)
        rows.append({"entry": entry, **described(how), **judge.row(images), "seconds": seconds})
        write_json(path, rows)
        print(line(rows[-1]), flush=True)
    order = [row.get("entry") for row in rows]
    rows = rows[:1] + [rows[order.index(entry)] for entry in settings()]
    with atomic_path(words.out / "ablation.md") as temporary:
        temporary.write_text(table(rows), encoding="utf-8")
    return 0


def seconds_of(refiner: Any, batch: PairBatch) -> float:
    """Return the seconds that one volume takes."""
    assert batch.label_VDHW is not None
    assert batch.image_VDHW is not None
    one = replace(
        batch, volumes=(0,), label_VDHW=batch.label_VDHW[:1], image_VDHW=batch.image_VDHW[:1]
    )
    began = time.perf_counter()
    refiner(one)
    return time.perf_counter() - began


def described(how: Any) -> dict[str, Any]:
    """Return the settings' columns."""
    return {
        "t_start": how.t_start,
        "steps": how.num_steps,
        "mode": how.mode,
        "sampler": how.sampler,
        "guidance": how.guidance_scale,
    }


def line(row: dict[str, Any]) -> str:
    """Return a table row in Markdown."""
    digits = {
        "FID / floor": 3,
        "MS-SSIM": 4,
        "SSIM": 4,
        "PSNR": 2,
        "median error": 4,
        "IQR error": 4,
    }
    cells = []
    for name in COLUMNS:
        value = row.get(name, "")
        is_number = isinstance(value, float)
        cells.append(f"{value:.{digits.get(name, 2)}f}" if is_number else str(value))
    return "| " + " | ".join(cells) + " |"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the whole table in Markdown."""
    head = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join([*head, *map(line, rows)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
