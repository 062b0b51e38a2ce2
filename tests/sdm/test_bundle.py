"""The bundle's configs, run as a user runs them, from another folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from common.bundles import bundles_dir
from common.data.datasets import Pair, PairSet
from common.errors import MedpairError
from common.stages import plain_errors

# the stack below us warns about itself
pytestmark = [pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")]

CONFIGS = bundles_dir() / "sdm_refiner" / "configs"
PRESETS = sorted(path.stem for path in (CONFIGS.parent / "presets").glob("*.yaml"))
SMALL = {
    "dataset_dir": "phantom:brain4:16x16x16:2",
    "network_def::channels": [8, 16],
    "network_def::embedding": 8,
    "network_def::mask_hidden": 8,
    "network_def::attention_levels": [False, False],
    "device": "cpu",
}
MONAI = {  # other options for another network
    "dataset_dir": SMALL["dataset_dir"],
    "network_def::channels": [8, 16],
    "network_def::attention_levels": [False, False],
    "network_def::norm_num_groups": 4,
    "network_def::num_head_channels": 8,
    "device": "cpu",
}
SHORT = {
    "batch_size": 2,
    "sample_steps": 2,
    "progress": False,
    "precision": "fp32",
    "val_interval": 1,
}


def workflow(kind: str, folder: Path, preset: str | None = None, **changes: Any) -> ConfigWorkflow:
    files = [str(CONFIGS / f"{kind}.yaml")]
    if preset is not None:
        files.append(str(CONFIGS.parent / "presets" / f"{preset}.yaml"))
    small = MONAI if preset == "monai" else SMALL
    options = {**small, "output_dir": str(folder / kind), **changes}
    opened = ConfigWorkflow(
        config_file=files,
        workflow_type="train" if kind == "train" else "infer",
        logging_file=False,
        **options,
    )
    opened.initialize()
    return opened


def run(kind: str, folder: Path, **changes: Any) -> None:
    opened = workflow(kind, folder, **changes)
    opened.run()
    opened.finalize()


def train(folder: Path, iterations: int, *, tracking: bool = False, **changes: Any) -> None:
    options = {**SHORT, "max_iterations": iterations, "train::handlers::12::every": 2, **changes}
    if not tracking:
        options["train::handlers::7::_disabled_"] = True
    run("train", folder, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(folder, 2, tracking=True)
    return folder


def weights(trained: Path) -> str:
    return str(trained / "train" / "model.pt")


def test_training_writes_weights_logs_and_a_picture(trained: Path) -> None:
    written = {path.name for path in (trained / "train").iterdir()}
    assert {"model.pt", "model.json", "checkpoints", "mlruns.db", "samples"} <= written
    state = torch.load(weights(trained), weights_only=True)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert (trained / "train" / "samples" / "000002.png").stat().st_size > 1000
    line = json.loads((trained / "train" / "val_log.jsonl").read_text().splitlines()[-1])
    assert line["iteration"] == 2
    assert line["val_loss"] > 0


def test_a_resumed_training_gives_the_same_bits(tmp_path: Path) -> None:
    train(tmp_path / "straight", 4, mask_dropout=0.3)
    train(tmp_path / "stopped", 2, mask_dropout=0.3, **{"train::handlers::1::max_iterations": 4})
    train(tmp_path / "stopped", 4, mask_dropout=0.3)
    one, other = (
        torch.load(tmp_path / name / "train" / "model.pt", weights_only=True)
        for name in ("straight", "stopped")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("changes", [{"views": "separate"}, {"train_views": ["axial"]}])
def test_other_ways_to_train(tmp_path: Path, changes: dict[str, Any]) -> None:
    train(tmp_path, 1, **changes)
    names = torch.load(tmp_path / "train" / "model.pt", weights_only=True)
    views = {key.split(".")[1] for key in names}
    assert views == ({"shared"} if "views" not in changes else {"axial", "coronal", "sagittal"})


def test_inference_refines_the_images_of_a_pair_set(trained: Path) -> None:
    run("inference", trained, weights=weights(trained), num_steps=1)
    made = PairSet.open(trained / "inference")
    pair = made.read(made.ids()[0])
    assert pair.image.shape == (16, 16, 16)
    assert 0 <= pair.image.min() < pair.image.max() <= 1


def test_images_come_from_another_pair_set_on_the_same_grid(trained: Path, tmp_path: Path) -> None:
    run("generate", trained, weights=weights(trained), num_steps=1)
    masks = trained / "generate"
    grey = PairSet.create(tmp_path / "grey", PairSet.open(masks).schema, None, None, {})
    for name in PairSet.open(masks).ids():
        pair = PairSet.open(masks).read(name)
        grey.write(Pair(name, np.full_like(pair.image, 0.5), pair.label, pair.affine))
    options = {"weights": weights(trained), "num_steps": 1, "dataset_dir": str(masks)}
    run("inference", tmp_path, image_dir=str(tmp_path / "grey"), t_start=1, **options)
    made = PairSet.open(tmp_path / "inference")
    assert abs(made.read(made.ids()[0]).image.mean() - 0.5) < 0.05
    moved = PairSet.create(tmp_path / "moved", grey.schema, None, None, {})
    for name in grey.ids():
        pair = grey.read(name)
        moved.write(Pair(name, pair.image, pair.label, pair.affine + np.eye(4)))
    opened = workflow("inference", tmp_path, image_dir=str(tmp_path / "moved"), **options)
    with pytest.raises(RuntimeError) as caught:  # MONAI's wrapper
        opened.run()
    assert "is off its mask's by 1; want at most 0.001" in str(caught.value.__cause__)


def test_generation_makes_images_from_masks_alone(trained: Path) -> None:
    run("generate", trained, weights=weights(trained), num_steps=2)
    made = PairSet.open(trained / "generate")
    assert made.header["generated_by"] == "sdm_refiner"
    assert len(made.ids()) > 0


def test_evaluation_judges_before_and_after(trained: Path) -> None:
    run("evaluate", trained, weights=weights(trained), num_steps=1, segmenter=None)
    report = json.loads((trained / "evaluate" / "evaluation.json").read_text())
    before, after = report["before"], report["after"]
    assert before["fidelity"]["mean"]["3D"]["psnr"] > after["fidelity"]["mean"]["3D"]["psnr"]
    assert before["n"] == after["n"] > 0
    assert before["detail_ratio"] != after["detail_ratio"]
    assert (trained / "evaluate" / "evaluation.png").exists()


@pytest.mark.parametrize("kind", ["inference", "evaluate", "generate"])
def test_data_of_another_schema_are_refused(kind: str, trained: Path, tmp_path: Path) -> None:
    """As many labels as the network knows would pass as its tissues."""
    options = {"weights": weights(trained), "dataset_dir": "phantom:abdomen4:16x16x16:2"}
    opened = workflow(kind, tmp_path, segmenter=None, **options)
    with pytest.raises(MedpairError) as caught, plain_errors():
        opened.run()
    assert str(caught.value) == (
        "dataset: schema 'abdomen4' (6 classes), the config is for 'brain4' (6); set schema and "
        "num_classes to fit"
    )
    assert not (tmp_path / kind).exists()


def test_real_scans_of_another_schema_are_refused(trained: Path, tmp_path: Path) -> None:
    options = {"weights": weights(trained), "dataset_dir": "phantom:abdomen4:16x16x16:2"}
    synthetic = "phantom:brain4:16x16x16:2"
    opened = workflow("evaluate", tmp_path, segmenter=None, synthetic_dir=synthetic, **options)
    with pytest.raises(MedpairError, match=r"schema 'abdomen4' \(6 classes\)"), plain_errors():
        opened.run()


def test_lost_weights_of_one_view_are_named(tmp_path: Path) -> None:
    train(tmp_path, 1, views="separate")
    path = tmp_path / "train" / "model.pt"
    state = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in state.items() if ".sagittal." not in k}, path)
    path.with_suffix(".json").unlink()
    opened = workflow("inference", tmp_path, views="separate", weights=str(path))
    with pytest.raises(RuntimeError) as caught:  # MONAI's wrapper
        opened.parser.get_parsed_content("stage")
    assert isinstance(caught.value.__cause__, MedpairError)
    assert "no weights of view 'sagittal'; train it too" in str(caught.value.__cause__)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_overlay_every_config(preset: str, tmp_path: Path) -> None:
    for kind in ("train", "inference", "evaluate", "generate"):
        opened = workflow(kind, tmp_path, preset)
        network = opened.parser.get_parsed_content("network_def")
        assert network.num_classes == opened.parser.get_parsed_content("num_classes")
        assert opened.parser.get_parsed_content("preset") == preset


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_of_a_preset_stay_small(preset: str) -> None:
    files = [str(CONFIGS / "inference.yaml"), str(CONFIGS.parent / "presets" / f"{preset}.yaml")]
    opened = ConfigWorkflow(config_file=files, workflow_type="infer", logging_file=False)
    opened.initialize()
    network = opened.parser.get_parsed_content("network_def")
    megabytes = 2 * sum(p.numel() for p in network.parameters()) / 1e6
    assert megabytes < {"tiny": 6, "small": 25}.get(preset, 100)


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_the_properties_that_monai_asks_for_are_there(
    kind: str, trained: Path, tmp_path: Path
) -> None:
    opened = workflow(kind, tmp_path, weights=weights(trained))
    assert not opened.check_properties()
