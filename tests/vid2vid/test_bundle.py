"""The bundle's configs, run as a user runs them, from another folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.errors import MedpairError

# the stack below us warns about itself
pytestmark = [
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

CONFIGS = bundles_dir() / "vid2vid_image" / "configs"
PRESETS = [path.stem for path in sorted((CONFIGS.parent / "presets").glob("*.yaml"))]
SMALL = {
    "dataset_dir": "phantom:brain4:16x32x32:2",
    "network_def::channels": [8, 16],
    "device": "cpu",
}


def workflow(kind: str, folder: Path, preset: str | None = None, **changes: Any) -> ConfigWorkflow:
    files = [str(CONFIGS / f"{kind}.yaml")]
    if preset is not None:
        files.append(str(CONFIGS.parent / "presets" / f"{preset}.yaml"))
    options = {**SMALL, "output_dir": str(folder / kind), **changes}
    return ConfigWorkflow(
        config_file=files,
        workflow_type="train" if kind == "train" else "infer",
        logging_file=False,
        **options,
    )


def run(kind: str, folder: Path, **changes: Any) -> None:
    opened = workflow(kind, folder, **changes)
    opened.initialize()
    opened.run()
    opened.finalize()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vid2vid")
    short = {"max_iterations": 2, "lengths": [[0, 2], [1, 4]], "slices_per_batch": 4}
    options = {"progress": False, "precision": "fp32", "d_channels": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("train", folder, **short, **options)
    return folder


def test_training_writes_weights_logs_and_a_picture(trained: Path) -> None:
    written = {path.name for path in (trained / "train").iterdir()}
    assert {"model.pt", "model.json", "checkpoints", "mlruns.db", "samples"} <= written
    state = torch.load(trained / "train" / "model.pt", weights_only=True)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert (trained / "train" / "samples" / "000002.png").stat().st_size > 1000
    line = json.loads((trained / "train" / "val_log.jsonl").read_text().splitlines()[-1])
    assert line["iteration"] == 2
    assert {"ms_ssim", "ssim", "psnr", "median_error", "detail_ratio"} <= set(line)


def test_inference_writes_a_pair_set(trained: Path) -> None:
    run("inference", trained, weights=str(trained / "train" / "model.pt"))
    made = PairSet.open(trained / "inference")
    assert len(made.ids()) > 0
    pair = made.read(made.ids()[0])
    assert pair.image.shape == (16, 32, 32)
    assert 0 <= pair.image.min() < pair.image.max() <= 1


def test_evaluation_compares_with_the_real_scans(trained: Path) -> None:
    run("evaluate", trained, weights=str(trained / "train" / "model.pt"))
    report = json.loads((trained / "evaluate" / "evaluation.json").read_text())
    assert report["n"] == len(report["pairs"]) > 0
    assert 0 < report["mean"]["3D"]["psnr"] < 60
    assert set(report["intensity"]) >= {"cortex", "white_matter", "csf"}
    assert (trained / "evaluate" / "evaluation.png").exists()


def test_weights_of_another_network_are_refused(trained: Path) -> None:
    weights = str(trained / "train" / "model.pt")
    opened = workflow("inference", trained, weights=weights, **{"network_def::channels": [8, 8]})
    opened.initialize()
    with pytest.raises(RuntimeError) as caught:  # MONAI's wrapper
        opened.parser.get_parsed_content("stage")
    assert isinstance(caught.value.__cause__, MedpairError)
    assert "does not fit this network" in str(caught.value.__cause__)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_overlay_every_config(preset: str, tmp_path: Path) -> None:
    for kind in ("train", "inference", "evaluate"):
        opened = workflow(kind, tmp_path, preset, **{"network_def::channels": [8, 16]})
        opened.initialize()
        network = opened.parser.get_parsed_content("network_def")
        assert network.num_classes == opened.parser.get_parsed_content("num_classes")
        assert opened.parser.get_parsed_content("preset") == preset


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_of_a_preset_stay_small(preset: str, tmp_path: Path) -> None:
    files = [str(CONFIGS / "inference.yaml"), str(CONFIGS.parent / "presets" / f"{preset}.yaml")]
    opened = ConfigWorkflow(config_file=files, workflow_type="infer", logging_file=False)
    opened.initialize()
    network = opened.parser.get_parsed_content("network_def")
    megabytes = 2 * sum(p.numel() for p in network.parameters()) / 1e6
    assert megabytes < {"tiny": 6, "small": 12}.get(preset, 25)


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_the_properties_that_monai_asks_for_are_there(
    kind: str, trained: Path, tmp_path: Path
) -> None:
    opened = workflow(kind, tmp_path, weights=str(trained / "train" / "model.pt"))
    opened.initialize()
    assert not opened.check_properties()


def test_the_first_tensors_are_named_as_servers_expect() -> None:
    described = json.loads((CONFIGS / "metadata.json").read_text())["network_data_format"]
    assert next(iter(described["inputs"])) == "image"
    assert next(iter(described["outputs"])) == "pred"
