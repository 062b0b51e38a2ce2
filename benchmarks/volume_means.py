"""Why a regression wins paired measures: the mean of many draws of a diffusion beside one draw.

Takes the networks that `volumes.py` trained by the first seed, makes every kept-back volume again
by other seeds, and judges the mean of the draws as if it were one image.

    python benchmarks/volume_means.py --data PAIRSET --out DIR   # DIR of volumes.py
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from tables import write_table
from volumes import CONTESTANTS, SEEDS, Judge, images_of

from common.metrics.image_report import ImageSet

COLUMNS = (
    "contestant", "draws", "MS-SSIM", "MS-SSIM A", "PSNR", "LPIPS-type", "FID/floor A",
    "FID/floor C", "FID/floor S",
)  # fmt: skip


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="pair set of real scans")
    parser.add_argument("--out", type=Path, required=True, help="what volumes.py wrote")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=["GEM-3D", "Make-A-Volume"])
    return parser.parse_args()


def mean_of_draws(draws: list[ImageSet]) -> ImageSet:
    """Return the voxel-wise mean of images of the same masks."""
    images = [np.mean(same, axis=0) for same in zip(*(d.images for d in draws), strict=True)]
    return replace(draws[0], images=images)


def main() -> None:
    """Judge one draw and the mean of all, and write ``means.md``."""
    words = arguments()
    words.autoencoder, words.preset = str(words.out / "autoencoder.pt"), "tiny"
    judge, found = Judge(words.data), []
    for name in words.only:
        work = words.out / name.replace(" ", "_")
        scores = json.loads((work / "rates.json").read_text(encoding="utf-8"))
        best = work / f"seed{SEEDS[0]}_rate{max(scores, key=lambda rate: scores[rate])}"
        one = CONTESTANTS[name]
        draws = [images_of(words, one, best, one.steps[0], n)[0] for n in range(words.draws)]
        for some in (draws[:1], draws):
            row = judge.row(mean_of_draws(some))
            found.append({"contestant": name, "draws": len(some), **row})
    write_table(words.out / "means", found, COLUMNS)


if __name__ == "__main__":
    main()
