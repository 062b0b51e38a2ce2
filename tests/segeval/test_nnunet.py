"""nnU-Net on pair sets: what is asked of it, what its masks are worth; itself for five epochs."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from segeval import nnunet
from segeval.nnunet import NnunetStudy, run_step

CONFIG = bundles_dir() / "segmentation_eval" / "configs" / "nnunet.yaml"
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "resampling.py"
PHANTOMS = "phantom:brats3:16x17x18:4"
Step = Callable[[str, Path, Path, Mapping[str, str]], None]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for nnU-Net that predicts the true masks; returns the steps asked for."""
    seen: list[str] = []

    def run(step: str, job: Path, log: Path, environment: Mapping[str, str]) -> None:
        seen.append(step)
        asked = json.loads(job.read_text(encoding="utf-8"))
        if step == "plan":
            folder = Path(environment["nnUNet_preprocessed"]) / asked["dataset"]
            folder.mkdir(parents=True)
        if step == "train":
            splits = Path(environment["nnUNet_preprocessed"]) / asked["dataset"]
            assert json.loads((splits / "splits_final.json").read_text())[asked["fold"]]["val"]
        if step == "predict":
            masks = Path(asked["predictions"])
            masks.mkdir()
            for name, image in asked["images"].items():
                truth = Path(image).parent.with_name(f"labels{Path(image).parent.name[6:]}")
                shutil.copy(truth / f"{name}.nii.gz", masks)

    monkeypatch.setattr(nnunet, "run_step", run)
    return seen


def study(out: Path, **changes: Any) -> NnunetStudy:
    return NnunetStudy(**{"dataset_dir": PHANTOMS, "output_dir": str(out)} | changes)


def test_true_masks_score_one_in_labels_and_groups(steps: list[str], tmp_path: Path) -> None:
    report = study(tmp_path)()
    assert steps == ["plan", "train", "predict"]
    assert (report["n_training"], report["n_training_real"], report["n"]) == (4, 4, 1)
    assert report["regions"] is True
    assert set(report["groups"]) == {"WT", "TC", "ET"}
    for scores in (report["mean"], report["groups_mean"], *report["labels"].values()):
        assert scores == {"dice": 1, "hd95_mm": 0, "surface_dice": 1}
    assert report == json.loads((tmp_path / "nnunet.json").read_text(encoding="utf-8"))


def test_a_wrong_voxel_costs_its_label(steps: list[str], tmp_path: Path) -> None:
    study(tmp_path)()
    (path,) = (tmp_path / "predictions").iterdir()
    mask = nib.load(path)
    label = np.asarray(mask.dataobj).copy()
    edema = tuple(np.argwhere(label == 1)[0])
    size = int((label == 1).sum())
    label[edema] = 4
    nib.save(nib.Nifti1Image(label, mask.affine), path)
    report = study(tmp_path)()
    assert steps == ["plan", "train", "predict"]  # nothing again
    assert report["labels"]["edema"]["dice"] == pytest.approx(2 * (size - 1) / (2 * size - 1))
    assert report["labels"]["enhancing"]["dice"] == 1
    assert report["groups"]["TC"]["dice"] == 1 > report["groups"]["WT"]["dice"]


def test_cross_validation_judges_kept_back_scans_and_trains_on_the_rest(
    steps: list[str], tmp_path: Path
) -> None:
    report = study(tmp_path, folds=2, fold=1)()
    assert (report["n_training"], report["n"]) == (2, 1)
    (case,) = report["cases"].values()
    assert case["persons"] == [case["id"]]


def test_a_folder_of_other_settings_is_refused(steps: list[str], tmp_path: Path) -> None:
    study(tmp_path)()
    with pytest.raises(MedpairError, match="begun with epochs 1000, wanted 5"):
        study(tmp_path, epochs=5)()
    with pytest.raises(MedpairError, match="holds something else"):
        study(tmp_path, folds=2)()
    with pytest.raises(MedpairError, match=r"fold: 1, wanted 0\.\.0"):
        study(tmp_path / "other", fold=1)()


def test_a_step_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import os, sys; print('\\nno', os.environ['X'], sys.argv[2]); sys.exit(3)")
    monkeypatch.setattr(nnunet, "WORKER", worker)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(MedpairError, match=r"step train ended with code 3 \(no memory train\)"):
        run_step("train", tmp_path / "job.json", tmp_path / "log", {"X": "memory"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MedpairError, match=r"not installed, .* pip install"):
        run_step("plan", tmp_path / "job.json", tmp_path / "log", {})


def workflow(out: Path, **changes: Any) -> ConfigWorkflow:
    options = {"dataset_dir": PHANTOMS, "output_dir": str(out), "device": "cpu", **changes}
    made = ConfigWorkflow([str(CONFIG)], workflow_type="infer", logging_file=False, **options)
    made.initialize()
    return made


def test_the_config_names_every_option(tmp_path: Path) -> None:
    made = workflow(tmp_path).parser.get_parsed_content("study")
    plain = NnunetStudy(dataset_dir=PHANTOMS, output_dir=str(tmp_path), add=[])
    assert made == plain  # and so the config's numbers are the class's


def test_table_4_trains_a_row_per_data_set(
    steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write_phantom_set(tmp_path / "real", "brats3", (16, 17, 18), 5, holdout=0.2)
    again = PairSet.create(tmp_path / "again", real.schema, real.spacing, real.size, real.intensity)
    for name in real.ids("training"):
        for turn in (1, 2):
            pair, record = real.read(name), {"person": name, "source": {"mask": name}}
            again.write(replace(pair, id=f"{name}_e{turn:02d}"), record)
    words = ["--real", real.dir, "--resampled", again.dir, "--out", tmp_path / "out", "--seeds", 0]
    monkeypatch.setattr(sys, "argv", ["resampling.py", *map(str, words), "--device", "cpu"])
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT), run_name="__main__")
    head, _, *rows = (tmp_path / "out" / "resampling.md").read_text().splitlines()
    found = {cells[1]: cells for cells in ([c.strip() for c in r.split("|")] for r in rows)}
    assert {name: cells[2] for name, cells in found.items()} == {
        "real": "4",
        "1x": "4",
        "2x": "8",
        "real + 2x": "12",
    }
    assert {(cells[4], cells[6]) for cells in found.values()} == {("100", "0")}
    assert head.endswith("Dice WT | Dice TC | Dice ET |")


@pytest.mark.optional_tool("nnunet")
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_nnunet_itself_trains_five_epochs(tmp_path: Path) -> None:
    pytest.importorskip("nnunetv2", reason="needs medpair[nnunet]")
    few = {"epochs": 5, "iterations": 2, "val_iterations": 1, "mirror": False}
    workflow(tmp_path, **few).run()
    report = json.loads((tmp_path / "nnunet.json").read_text(encoding="utf-8"))
    assert (report["n_training"], report["n"]) == (4, 1)
    assert 0 <= report["mean"]["dice"] <= 1
    (log,) = tmp_path.glob("nnUNet_results/*/*/fold_0/training_log*.txt")
    assert log.read_text().count("Epoch time") == 5
    weights = log.parent / "checkpoint_final.pth"
    before = weights.stat().st_mtime_ns
    workflow(tmp_path, **few).run()
    assert weights.stat().st_mtime_ns == before  # done is done
