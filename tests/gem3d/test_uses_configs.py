"""The three uses as configs: complete alone, from another folder, with the blocks of inference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.engines.weights import save_weights

CONFIGS = bundles_dir() / "gem3d_volume" / "configs"
USES = ("enhance", "counterfactual", "harmonise")
SIZE = (16, 16, 16)
SMALL = {
    "device": "cpu",
    "precision": "fp32",
    "segmenter": None,
    "window": 6,
    "num_steps": 2,
    "autoencoder_channels": [8, 8, 16],
    "latent_channels": 4,
    "channels": [16, 16],
    "embedding": 16,
    "slice_generator_channels": [16],
    "slice_generator_embedding": 16,
}
BLOCKS = (
    "schedule",
    "autoencoder_def",
    "encoding",
    "volume_def",
    "slice_generator_def",
    "network_def",
    "network",
    "sampler",
    "generator",
)


def content(kind: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONFIGS / f"{kind}.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("kind", USES)
def test_networks_and_sampling_are_those_of_inference(kind: str) -> None:
    wanted, found = content("inference"), content(kind)
    for key in BLOCKS:
        assert found[key] == wanted[key], key
    text = (CONFIGS / "inference.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text[text.index("# --- sampling") : text.index("\nautoencoder_def:")])
    shown = wanted["displayable_configs"]  # what MONAI Label asks for
    settings |= {key: shown[key] for key in settings.keys() & shown.keys()}
    assert {key: found[key] for key in settings} == settings


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    parser = ConfigParser(content("enhance"))
    parser.update(pairs=SMALL)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    card = {"schema": "brain4", "preset": "tiny"}
    save_weights(parser.get_parsed_content("network_def"), path, card)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_phantom_set(folder, "brain4", SIZE, 4, holdout=0.25)
    return folder


def run(kind: str, weights: str, out: Path, **changes: Any) -> None:
    options = {**SMALL, "weights": weights, "output_dir": str(out), **changes}
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / f"{kind}.yaml"),
        workflow_type="infer",
        logging_file=False,
        **options,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def test_enhance_with_changed_masks_and_generated_slices(
    weights: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overlay = yaml.safe_load((CONFIGS.parent / "mask_augmentation" / "brain4.yaml").read_text())
    run("enhance", weights, tmp_path / "a", dataset_dir=str(data), times=2, **overlay)
    made = PairSet.open(tmp_path / "a")
    assert len(made.ids()) == 6
    assert "mask_augmentation" in made.record(made.ids()[0])
    assert (tmp_path / "a" / "enhance.json").is_file()
    run("enhance", weights, tmp_path / "b", dataset_dir=str(data), informed="generated")
    made = PairSet.open(tmp_path / "b")
    assert {made.record(name)["informed"]["kind"] for name in made.ids()} == {"generated"}


def test_a_volume_does_not_change_with_its_neighbours(
    weights: str, data: Path, tmp_path: Path
) -> None:
    for batch in (1, 3):
        run("enhance", weights, tmp_path / str(batch), dataset_dir=str(data), batch_volumes=batch)
    one, three = (PairSet.open(tmp_path / str(batch)) for batch in (1, 3))
    for name in one.ids():
        np.testing.assert_allclose(one.read(name).image, three.read(name).image, atol=1e-4)


def test_phantoms_need_no_files(weights: str, tmp_path: Path) -> None:
    phantoms = "phantom:brain4:16x16x16:2"
    run("enhance", weights, tmp_path / "out", dataset_dir=phantoms, batch_volumes=2)
    assert len(PairSet.open(tmp_path / "out").ids()) == 2


def test_harmonise(weights: str, data: Path, tmp_path: Path) -> None:
    name = PairSet.open(data).ids()[0]
    options = {"dataset_dir": str(data), "reference": name, "slice": 8, "tolerance": 0.5}
    run("harmonise", weights, tmp_path / "out", **options)
    assert PairSet.open(tmp_path / "out").ids() == PairSet.open(data).ids()
    report = json.loads((tmp_path / "out" / "harmonise.json").read_text())
    assert report["after"]["n"] == 4


@pytest.mark.parametrize("keep", [False, True])
def test_counterfactual(weights: str, data: Path, tmp_path: Path, keep: bool) -> None:
    name = PairSet.open(data).ids()[0]
    edit = {"op": "add_sphere", "label": "csf", "radius_mm": 20, "centre_fraction": [0.7, 0.5, 0.5]}
    edit["over"] = ["cortex", "subcortical_gm", "white_matter", "brain"]
    (tmp_path / "edit.yaml").write_text(yaml.safe_dump([edit]))
    files = {
        "image": str(data / "images" / f"{name}.nii.gz"),
        "mask": str(data / "labels" / f"{name}.nii.gz"),
        "edit": str(tmp_path / "edit.yaml"),
        "source": "schema",
        "spacing": None,
        "size": None,
        "crop": None,
        "tolerance": 0.5,
    }
    run("counterfactual", weights, tmp_path / "out", keep_outside=keep, **files)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    outside = report["locality"]["result_to_source"]["outside"]["mae"]
    assert (outside == 0) == keep
    assert report["edit"]["changed_voxels"] > 0
