"""What `results.py` found, as numbers for `results_page.py`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from race import machine

from common.data.datasets import PairSet
from common.engines.device import pick_device
from common.metrics.extractors import MapExtractor
from common.metrics.image_report import judge_images, read_images
from common.stages import open_key

SEGMENTER = "segmentation_eval"
Report = dict[str, Any]


def read(path: Path) -> Any:
    """Return the content of a JSON file, None where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def distance_to_kept_back(made: Path, data: Path, preset: str, weights: Path | None) -> float:
    """Return the Frechet distance of pairs to the scans that no training saw, mean of the views.

    Args:
        made: generated pair set.
        data: pair set of real scans.
        preset: of the segmenter whose encoder gives the features.
        weights: folder of its weights; None takes those that ship.
    """
    features = open_key(SEGMENTER, "features", preset, weights)
    assert features is not None
    report: Any = judge_images(
        read_images(made),
        read_images(data, "validation"),
        PairSet.open(data).schema,
        extractors=[MapExtractor(features, "encoder")],
    )
    return float(report["features"]["encoder"]["mean"]["fid"]["distance"])


def collect(words: argparse.Namespace, seconds: Mapping[str, float]) -> Report:
    """Return all that the finished steps found.

    Args:
        words: the command line of `results.py`.
        seconds: of each step.
    """
    out, chosen = Path(words.out), read(Path(words.out) / "chosen.json")
    options = ("preset", "minutes", "shipped", "fast", "pairs", "updates", "compared", "seeds")
    folder = out / str(chosen["state"])
    return {
        "options": {name: getattr(words, name) for name in options},
        "states": chosen,
        "quality": quality(folder, words.data),
        "medgen3d-1": read(out / "baselines" / "tables" / "medgen3d-1.json"),
        "gem3d-1": read(out / "enhancement" / "enhancement.json"),
        "gem3d-2": read(out / "volumes" / "volumes.json"),
        "strategies": strategies(read(out / "compare" / "report" / "compare.json")),
        "resampled": strategies(read(out / "compare" / "report_resampled" / "compare.json")),
        "seconds": dict(seconds),
        **machine(pick_device().type),
    }


def quality(folder: Path, data: Path) -> Report:
    """Return what is asked of generated pairs: alignment, volumes, distances, seams, copies.

    Args:
        folder: with ``pairs``, ``judge`` and ``audit``.
        data: pair set of real scans.
    """
    judge, audit = (read(folder / name / f"{name}.json") for name in ("judge", "audit"))
    views = judge["fidelity"]["encoder"]["views"]
    return {
        "alignment": judge["alignment"]["mean"]["ratio"],
        "volumes_in_range": volumes_in_range(folder / "pairs", data),
        "distance_ratio": {view: views[view]["fid"]["ratio"] for view in "ACS"},
        "seam_index": judge["consistency"]["seams"]["seam_index"],
        "detail_ratio": judge["detail_ratio"],
        "ms_ssim": {k: judge["diversity"]["ms_ssim"][k] for k in ("pairwise", "real")},
        "copies": audit["n_copies"],
        "by_chance": {k: m["by_chance"] for k, m in audit["measures"].items()},
        "pairs": audit["n"],
    }


def volumes_in_range(made: Path, data: Path) -> float:
    """Return the share of pairs of which every label's volume lies in the range of real scans."""
    real, pairs = (PairSet.open(folder) for folder in (data, made))
    counts = [
        np.array([np.bincount(s.read(name).label.ravel(), minlength=256) for name in s.ids()])
        for s in (real, pairs)
    ]
    known = [label.id for label in real.schema.labels]
    lowest, highest = counts[0][:, known].min(0), counts[0][:, known].max(0)
    inside = (counts[1][:, known] >= lowest) & (counts[1][:, known] <= highest)
    return float(inside.all(1).mean())


def strategies(report: Report | None) -> Report | None:
    """Return means and differences of `medpair compare`, None where it has not run."""
    if report is None:
        return None
    names = ("network", "strategy", "synthetic")
    arms = [
        {
            **{name: arm[name] for name in names},
            "updates": [step["updates"] for step in arm["steps"]],
            "dice": arm["mean"]["dice"],
            "hd95_mm": arm["mean"]["hd95_mm"],
        }
        for arm in report["arms"]
        if "result" not in arm
    ]
    differences = [
        {
            **{name: entry[name] for name in (*names, "against")},
            "dice": entry["measures"]["dice"]["mean"],
        }
        for entry in report["differences"]
        if not isinstance(entry["measures"], str)
    ]
    return {"seeds": report["settings"]["seeds"], "arms": arms, "differences": differences}
