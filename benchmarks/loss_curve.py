"""Draw the loss curve of a training for its model card.

    python benchmarks/loss_curve.py --run OUT/mcdpm_mask --out loss.png

`--key` and `--validation` name other values of the two logs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def series(path: Path, key: str) -> tuple[list[int], list[float]]:
    """Return iterations and values of one key of a log."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = [(line["iteration"], line[key]) for line in lines if key in line]
    return [i for i, _ in found], [v for _, v in found]


def main() -> None:
    """Draw training and validation values over the iterations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="output folder of a training")
    parser.add_argument("--key", default="loss")
    parser.add_argument("--validation", default="val_loss")
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    figure, axes = plt.subplots(figsize=(6, 3))
    axes.plot(*series(words.run / "train_log.jsonl", words.key), label=f"training: {words.key}")
    twin = axes if words.validation.endswith("loss") else axes.twinx()
    points = series(words.run / "val_log.jsonl", words.validation)
    twin.plot(*points, "o-", color="tab:orange", label=f"kept-back scans: {words.validation}")
    axes.set_xlabel("iteration")
    axes.set_yscale("log")
    figure.legend(loc="upper center", ncols=2, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.94))  # the legend stands above the curves
    figure.savefig(words.out, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
