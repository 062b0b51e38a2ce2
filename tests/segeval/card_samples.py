"""Reports as judge, audit and comparison write them, made up for the tests of the card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.datasets import PairSet
from common.data.labels import load_schema
from common.io.manifest import sha256
from segeval.outcome import Tested, report
from segeval.plan import Arm, Trial
from segeval.pools import Item
from segeval.strategies import choose, read_strategies

LABELS = ("cortex", "subcortical_gm", "white_matter", "csf", "brain")
VERSIONS = {"medpair": "0.1.0", "numpy": "2"}


def said(pairs: PairSet, **more: Any) -> dict[str, Any]:
    """Return what a report says of a pair set."""
    found = {"folder": pairs.dir.name, "manifest_sha256": sha256(pairs.manifest.path)}
    return {**more, **found, "pairs": len(pairs.ids())}


class FakeCell:
    """A training that never ran."""

    key = "cell"

    def __init__(self, data: Sequence[Sequence[str]], updates: int) -> None:
        self.inputs = {
            "data": [{"pairs": list(names)} for names in data],
            "updates": updates,
            "learning_rate": 0.001,
        }


def compare_report(
    real: PairSet,
    synthetic: Mapping[str, PairSet],
    *,
    strategies: Sequence[str] = ("E2-1", "E2-1-equal", "E2-3", "E2-4"),
    networks: Sequence[str] = ("unet3d",),
    gain: float = 0.02,
    persons: int = 4,
) -> dict[str, Any]:
    """Return the report of trainings that never ran; with synthetic pairs Dice is higher."""
    schema = load_schema("brain4")
    chosen = choose(read_strategies(), strategies)
    cases = tuple(
        Item(f"case{n}", "validation", f"p{n // 2}", frozenset({f"p{n // 2}"}), "m", ("a", "b"))
        for n in range(2 * persons)
    )
    rng = np.random.default_rng(0)
    tested = []
    for network in networks:
        for strategy in chosen:
            for name in synthetic if strategy.needs("synthetic") else [None]:
                cells = []
                for step in strategy.steps:
                    counts = {"real": 20, "target": 9, "synthetic": 60}
                    sizes = [s.persons or counts[s.set] for s in step.data]
                    cells.append(FakeCell([["x"] * n for n in sizes], step.count(100)))
                few = min((s.persons or 20) for t in strategy.steps for s in t.data)
                level = 0.85 - 0.5 / few + (gain if name else 0)
                for seed in (0, 1):
                    scores = {
                        case.id: {
                            label: {
                                "dice": float(level - 0.02 * k + rng.normal(0, 0.004)),
                                "hd95_mm": float(4 + rng.normal(0, 0.1)),
                                "surface_dice": 0.97,
                            }
                            for k, label in enumerate(LABELS)
                        }
                        for case in cases
                    }
                    trial = Trial(Arm(network, strategy.name, name), seed, tuple(cells), cases)
                    tested.append(Tested(trial, scores))
    seen = {name: (frozenset[str](), False) for name in synthetic}
    return {
        "format": "medpair-compare-1",
        "settings": {
            "real": said(real, name="real"),
            "synthetic": [said(pairs, name=name) for name, pairs in synthetic.items()],
            "target": None,
            "test": said(real, name="real"),
            "strategies": list(strategies),
            "seeds": [0, 1],
            "folds": None,
            "tolerance_mm": 4.0,
            "versions": VERSIONS,
        },
        "problems": [],
        **report(schema, chosen, tested, {}, seen),
    }


def audit_report(real: PairSet, synthetic: PairSet, copies: Sequence[str] = ()) -> dict[str, Any]:
    """Return the report of an audit that never ran."""
    scans = real.ids("training")
    volumes = {
        name: {
            "training": scans[n % len(scans)],
            "likeness": 0.95 if name in copies else 0.5 + 0.01 * n,
            "held_out": scans[0],
            "held_out_likeness": 0.5,
            "ratio": 0.9,
            "copy": name in copies,
        }
        for n, name in enumerate(synthetic.ids())
    }
    measure = {
        "threshold": 0.74,
        "references": {},
        "by_chance": 0.04,
        "n_copies": len(copies),
        "share": 0.0,
        "n_mem": len(copies),
        "copied": [],
        "copies": list(copies),
        "ratio": {"median": 0.98, "mean": 0.98, "least": 0.9, "fair": 1.0},
        "membership": {"auc": 0.55, "low": 0.41, "high": 0.7, "n_persons": 4},
        "volumes": volumes,
    }
    now = said(synthetic)
    return {
        "format": "medpair-audit-1",
        "settings": {
            "sets": {
                "synthetic": now,
                "training": said(real, split="training"),
                "held_out": said(real, split="validation"),
            },
            "decided_by": ["detail", "embedding"],
            "versions": VERSIONS,
        },
        "n": len(synthetic.ids()),
        "n_training": len(scans),
        "n_held_out": len(real.ids("validation")),
        "n_copies": len(copies),
        "n_mem": len(copies),
        "copies": {name: {} for name in copies},
        "measures": {"detail": measure, "mask": measure, "embedding": "not computed: N=2 scans"},
        "slices": "not computed: the masks are empty",
        "informed": "not computed: the manifest names no informed slices",
        "problems": [],
        "copies_left": list(copies),
        "removed": {},
        "action": None,
        "manifest_sha256": now["manifest_sha256"],
    }


def judge_report(real: PairSet, synthetic: PairSet) -> dict[str, Any]:
    """Return the report of a judge that never ran, with some of its parts."""
    view = {
        "slices": 40,
        "fid": {"distance": 0.3, "floor": 0.2, "ratio": 1.5},
        "kid": {"distance": 0.001, "floor": -0.002, "ratio": "not computed: unbiased"},
        "precision": {"share": 0.8, "floor": 0.9, "ratio": 0.89},
    }
    score = {"dice": 0.9, "real_dice": 0.91, "ratio": 0.989, "hd95_mm": 4.0, "real_hd95_mm": 4.0}
    steps = {"D": {"first": 1, "steps": [0.1, "not computed: empty", 0.3]}}
    return {
        "format": "medpair-judge-1",
        "settings": {
            "sets": {"real": said(real), "synthetic": said(synthetic)},
            "versions": VERSIONS,
        },
        "problems": [],
        "n": {"synthetic": len(synthetic.ids()), "training": 3, "kept_back": 2}
        | {"training_persons": 3, "kept_back_persons": 2},
        "fidelity": {
            "encoder": {"mean": view, "views": dict.fromkeys("ACS", view)},
            "inception": "not computed: no weights of inception are given",
            "voxels": {"distance": 0.0056, "floor": -0.0006},
        },
        "alignment": {"labels": {"cortex": score}, "mean": score, "mean_over": ["cortex"]},
        "intensity": {
            "range": {
                "labels": {"cortex": {"low": 0.5, "high": 0.6, "inside": 0.75, "n": 4}},
                "all_inside": 0.5,
            },
            "distance": {"cortex": {"distance": 0.02, "floor": 0.01, "ratio": 2.0}},
        },
        "consistency": {
            "relative": {"D": {"slice_noise": 0.88, "slice_noise_real_range": [0.9, 1.1]}},
            "profiles": {"real": steps, "synthetic": steps},
            "seams": {"seam_index": 1.04, "n": 4},
        },
        "detail_ratio": 0.87,
        "masks": "not computed: masks of another shape",
    }


def written(folder: Path, kind: str, content: Mapping[str, Any]) -> Path:
    """Write a report and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
