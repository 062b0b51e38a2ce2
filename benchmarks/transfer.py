"""MedGen3D's Table 4 on phantoms: does what was learned in one place help in another?

Trains the small MC-DPM and Vid2Vid of ``canary.py`` on phantoms of one scanner, generates pairs,
and runs strategies E3-1 to E3-4 towards two scanners that show the same kind of anatomy otherwise:
"inverted" (what was bright is dark) and "coarse" (thick slices, other gamma, five times the noise).
Each has few scans to train on. No person is in two sets. Started again, it goes on.

    python benchmarks/transfer.py --out DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from canary import Image, Scanner, generate, persons, write_scans
from scipy import ndimage
from tables import table

from common.comparison import compare
from common.io.atomic import write_json

STRATEGIES = (
    "E3-1",
    "E3-1-equal",
    "E3-1-long",
    "E3-2",
    "E3-2-long",
    "E3-3",
    "E3-3-long",
    "E3-4",
    "E3-4-long",
)
SOURCE, FIRST_OF = 100, {"inverted": 30_000, "coarse": 40_000}
"""First seeds of the persons of each set."""
COLUMNS = ("target", "strategy", "Dice", "HD95 mm", "against", "difference", "low", "high")


def inverted(image: Image, _: np.random.Generator) -> Image:
    """Return the image with tissue contrast turned round."""
    return np.where(image > 0, np.maximum(1.1 - image, 0.02), 0).astype(np.float32)


def coarse(image: Image, rng: np.random.Generator) -> Image:
    """Return the image as of thick slices, with another gamma and more noise."""
    thick = ndimage.gaussian_filter1d(image, 0.7, axis=0)
    noise = rng.normal(0.0, 0.12, image.shape)
    changed = np.clip(thick, 0, None) ** 1.5 + noise
    return np.where(image > 0, np.maximum(changed, 0.02), 0).astype(np.float32)


SCANNERS: Mapping[str, Scanner] = {"inverted": inverted, "coarse": coarse}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scans", type=int, default=20, help="of the first place")
    parser.add_argument("--few", type=int, default=3, help="scans to train on in another place")
    parser.add_argument("--tested", type=int, default=12, help="scans to test on in another place")
    parser.add_argument("--iterations", type=int, default=800, help="of each generative network")
    parser.add_argument("--pairs", type=int, default=60, help="generated pairs")
    parser.add_argument("--updates", type=int, default=1000, help="of a segmenter")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, default=0, help="of the generated pairs")
    return parser.parse_args()


def rows(target: str, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per strategy and strategy that it is compared with.

    Args:
        target: name of the set that the networks were tested on.
        report: content of ``compare.json``.
    """
    found = []
    for arm in report["arms"]:
        own = {
            "target": target,
            "strategy": arm["strategy"],
            "Dice": arm["mean"]["dice"],
            "HD95 mm": arm["mean"]["hd95_mm"],
        }
        against = [d for d in report["differences"] if d["strategy"] == arm["strategy"]]
        for other in against:
            mean = other["measures"]["dice"]["mean"]
            gap = {key: mean[key] for key in ("low", "high")}
            found.append(own | {"against": other["against"], "difference": mean["mean"], **gap})
        if not against:
            found.append(own | dict.fromkeys(COLUMNS[4:], "-"))
    return found


def main() -> int:
    """Train, generate, compare and write ``transfer.md`` and ``transfer.json``."""
    words = arguments()
    source = write_scans(words.out / "source", list(persons(SOURCE, words.scans)))
    synthetic = generate(source, words.out / "generator", words)
    found = []
    for scanner in SCANNERS:
        few = list(persons(FIRST_OF[scanner], words.few))
        tested = list(persons(FIRST_OF[scanner] + words.few, words.tested))
        target = write_scans(words.out / scanner, few, tested, SCANNERS[scanner])
        # one folder for both: what was trained before a target was met is not trained twice
        comparison = compare(
            real=source,
            synthetic={"medgen3d": synthetic},
            target=target,
            strategies=STRATEGIES,
            seeds=words.seeds,
            updates=words.updates,
            out=words.out / "compare",
        )
        report = json.loads((comparison / "compare.json").read_text(encoding="utf-8"))
        found += rows(scanner, report)
    write_json(words.out / "transfer.json", {"rows": found})
    text = table(found, COLUMNS)
    (words.out / "transfer.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
