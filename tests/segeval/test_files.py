"""Training on files, as MONAI Label asks for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.bundles import bundles_dir
from common.data.datasets import load_arrays
from common.data.phantom import make_phantom
from common.data.views import from_dhw
from common.errors import MedpairError
from common.stages import open_workflow
from segeval.data import ScanBatches, Scans
from segeval.files import LEAST, load_files, published, resumes, updates_per_epoch

PHANTOMS = "phantom:brain4:24x20x20:2"
SPACING = (8.0, 8.0, 8.0)


def write(folder: Path, count: int = 2) -> list[dict[str, str]]:
    items = []
    for number in range(count):
        image, label = make_phantom("brain4", (48, 40, 40), number)
        paths = {key: str(folder / f"{key}{number}.nii.gz") for key in ("image", "label")}
        for key, array in (("image", image), ("label", label)):
            volume = nib.Nifti1Image(from_dhw(array, "AP"), np.diag([4.0, 4.0, 4.0, 1.0]))
            nib.save(volume, paths[key])
        items.append(paths)
    return items


def test_files_become_pairs_in_memory(tmp_path: Path) -> None:
    data = load_files(write(tmp_path), "brain4", SPACING)
    assert data.ids == ("image0", "image1")
    assert data.spacing == SPACING
    for image, label in zip(data.images, data.labels, strict=True):
        assert image.shape == label.shape
        assert set(np.unique(label)) == set(range(6))
    assert len(Scans(write(tmp_path), "brain4", 6, SPACING)) == 2


def test_pairs_in_memory_stay_as_they_are() -> None:
    data = load_arrays(PHANTOMS, None)
    assert load_files(data, "brain4", SPACING) is data
    assert resumes(data)
    assert published(data, "root") is None
    assert updates_per_epoch(data, 300, 2) == 300


def test_files_are_a_new_training_for_the_bundle_in_use(tmp_path: Path) -> None:
    files = [{"image": "a", "label": "b"}] * 120
    assert not resumes(files)
    assert published(files, "root") == str(Path("root") / "models" / "model.pt")
    assert updates_per_epoch(files, 300, 2) == 60
    assert updates_per_epoch(files[:4], 300, 2) == LEAST


def test_files_that_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    items = write(tmp_path)
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), items[1]["label"])
    with pytest.raises(MedpairError, match=r"label1.nii.gz: shape \(3, 3, 3\)"):
        load_files(items, "brain4", SPACING)
    nib.save(nib.Nifti1Image(np.zeros((40, 48, 40), np.uint8), np.eye(4)), items[1]["label"])
    shutil.copy(items[1]["label"], items[1]["image"])
    with pytest.raises(MedpairError, match=r"label1.nii.gz: study: empty mask"):
        load_files(items, "brain4", SPACING)


def test_masks_hold_the_ids_of_the_schema(tmp_path: Path) -> None:
    """Two files of one training are never read by different sources."""
    items = write(tmp_path)
    label = nib.load(items[1]["label"])
    ids = np.where(np.asanyarray(label.dataobj) == 1, 42, np.asanyarray(label.dataobj))
    nib.save(nib.Nifti1Image(ids.astype(np.int16), label.affine), items[1]["label"])
    with pytest.raises(MedpairError, match=r"label1.nii.gz: .*ids 42 are outside schema"):
        load_files(items, "brain4", SPACING)
    with pytest.raises(MedpairError, match="spacing: none"):
        load_files(write(tmp_path), "brain4", None)


def test_no_labelled_scan_is_one_line() -> None:
    with pytest.raises(MedpairError, match="0 labelled scans"):
        ScanBatches(Scans([], "brain4", 6, SPACING), 2)


def test_the_config_trains_on_files_from_the_weights_in_use(tmp_path: Path) -> None:
    """As MONAI Label runs it: its own lists of files, one epoch, a handler that loads weights."""
    root = tmp_path / "root"
    shutil.copytree(bundles_dir() / "segmentation_eval" / "models", root / "models")
    old = (root / "models" / "model.pt").read_bytes()
    files = write(tmp_path)
    overrides = {
        "bundle_root": str(root),
        "device": "cpu",
        "train#dataset#data": files[:1],
        "validate#dataset#data": files[1:],
        "train#trainer#max_epochs": 1,
        "spacing": list(SPACING),
        "progress": False,
        "mlflow": False,
        "batch_size": 1,
    }
    logs = []
    for validated in (files[1:], []):  # the second begins anew, though there are checkpoints
        overrides["validate#dataset#data"] = validated
        open_workflow("segmentation_eval", "train", "tiny", overrides).run()
        logs.append((root / "eval" / "train_log.jsonl").read_text().splitlines())
    assert [json.loads(rows[-1])["iteration"] for rows in logs] == [LEAST, LEAST]
    card = json.loads((root / "models" / "model.json").read_text())
    assert card["iterations"] == LEAST
    assert (root / "models" / "model.pt").read_bytes() != old
    assert (root / "models" / "model_before.pt").read_bytes() == old  # not those between
    (row,) = (root / "eval" / "val_log.jsonl").read_text().splitlines()
    assert json.loads(row)["mean_dice"] > 0
