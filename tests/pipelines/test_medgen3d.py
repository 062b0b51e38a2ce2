"""The shipped pipeline from end to end, with the weights that ship."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.diffusion.windows import plan_windows
from common.errors import IncompleteError, MedpairError
from common.pipeline import generate_pipeline, read_pipeline

TIMED = ("run.jsonl", "report.html")  # they hold seconds


def tree(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in TIMED)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def tiny_presets() -> dict[str, Any]:
    """The pipeline's presets with one volume per batch, to save time."""
    presets = read_pipeline("medgen3d")["presets"]
    return {"tiny": {**presets["tiny"], "batch_volumes": 1}}


def run(out: Path, **changes: Any) -> PairSet:
    words: dict[str, Any] = {"preset": "tiny", "num": 1, "seed": 5, "depth": 12, "start": 4}
    stages = read_pipeline("medgen3d")["stages"]
    generate_pipeline("medgen3d", stages, tiny_presets(), out=out, **(words | changes))
    return PairSet.open(out)


def test_shipped_weights_make_brains(tmp_path: Path) -> None:
    pairs = run(tmp_path, depth=None, start=None)
    pair = pairs.read(pairs.ids()[0])
    assert pair.label.shape == pair.image.shape == (48, 40, 40)
    present = set(np.unique(pair.label))
    assert {1, 2, 3} <= present
    medians = [np.median(pair.image[pair.label == i]) for i in (1, 3)]
    assert medians[0] < medians[1]  # cortex is darker than white matter on T1
    assert (tmp_path / "contact_sheet.png").stat().st_size > 1000
    assert "1 pair:\nfully generated." in (tmp_path / "report.html").read_text(encoding="utf-8")
    generated = pairs.header["generated"]
    assert set(generated["stages"]) == {"mask", "image", "refine"}
    assert all(len(stage["weights_sha256"]) == 64 for stage in generated["stages"].values())
    record = pairs.record(pair.id)
    assert record["gate"]["passed"]
    assert record["joints"] == list(plan_windows(48, 6, 2, record["start"]).joints)
    assert generated["gate"]["bundle"] == "segmentation_eval"


def test_pairs_unlike_real_scans_are_refused_and_kept_beside(tmp_path: Path) -> None:
    """The shipped gate judges phantoms; without it they pass."""
    write_phantom_set(tmp_path / "data", "brain4", (48, 40, 40), 1, spacing=(4.0, 4.0, 4.0))
    words: dict[str, Any] = {"data": tmp_path / "data", "depth": None, "start": None}
    with pytest.raises(IncompleteError, match=r"gate: 1 of 1 pairs failed all 4 attempts"):
        run(tmp_path / "out", only=["gate"], **words)
    assert PairSet.open(tmp_path / "out").ids() == ()
    rejected = PairSet.open(tmp_path / "out" / "rejected")
    assert rejected.ids() == tuple(f"s5_00000_a{n}" for n in range(4))
    assert rejected.record("s5_00000_a0")["faults"]
    passed = run(tmp_path / "free", only=["gate"], gate=False, **words)
    assert passed.record("s5_00000")["gate"] == "not run: left out"


def test_a_gate_without_ranges_of_the_depth_is_not_run(tmp_path: Path) -> None:
    write_phantom_set(tmp_path / "data", "brain4", (24, 40, 40), 1, spacing=(4.0, 4.0, 4.0))
    words: dict[str, Any] = {"data": tmp_path / "data", "depth": 24, "start": None}
    with pytest.raises(MedpairError, match="leave the gate out"):
        run(tmp_path / "named", only=["gate"], **words)


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b")
    run(tmp_path / "c", seed=6)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    said = PairSet.open(tmp_path / "a").record("s5_00000")["gate"]
    assert said.startswith("not run: 12 slices")
    one, other = (PairSet.open(tmp_path / x) for x in "ac")
    assert (one.read("s5_00000").label != other.read("s6_00000").label).any()


def test_images_for_given_masks(tmp_path: Path) -> None:
    masks = run(tmp_path / "a")
    made = run(tmp_path / "b", only=["image"], data=tmp_path / "a", seed=6)
    one, other = masks.read("s5_00000"), made.read("s6_00000")
    np.testing.assert_array_equal(one.label, other.label)


def test_weights_of_another_preset_are_refused(tmp_path: Path) -> None:
    presets = {"small": read_pipeline("medgen3d")["presets"]["small"]}
    stages = [{"name": "mask", "bundle": "mcdpm_mask"}]
    source = bundles_dir() / "mcdpm_mask" / "models"
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mcdpm_mask").symlink_to(source)
    with pytest.raises(MedpairError, match="weights of preset 'tiny', wanted 'small'"):
        generate_pipeline(
            "medgen3d",
            stages,
            presets,
            preset="small",
            num=1,
            seed=0,
            out=tmp_path / "out",
            weights=tmp_path / "w",
        )
    assert not (tmp_path / "out").exists()


def test_the_pipeline_config_runs_from_another_directory(tmp_path: Path) -> None:
    config = bundles_dir() / "medgen3d.yaml"
    words = ["--num", "1", "--depth", "8", "--output_dir", str(tmp_path / "out")]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config), *words]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert PairSet.open(tmp_path / "out").read("s0_00000").image.shape == (8, 40, 40)
