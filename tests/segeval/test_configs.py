"""The bundle's configs, run as a user runs them, from another folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.bundle import run as bundle_run  # what `python -m monai.bundle run` calls
from torch import Tensor

from common.bundles import bundles_dir
from common.data.datasets import PairSet, load_arrays
from common.data.views import ras_affine
from common.engines.checkpoints import run_trainer
from common.errors import MedpairError
from common.io.nifti import read_volume, write_volume
from segeval.networks import ARCHITECTURES

# MONAI warns whoever runs a config that it is code
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")

CONFIGS = bundles_dir() / "segmentation_eval" / "configs"
PHANTOMS = "phantom:brain4:18x17x16:2"  # no multiple of the strides
SMALL = {"dataset_dir": PHANTOMS, "sizes::unet3d::channels": [4, 6, 8, 8], "device": "cpu"}
PRESETS = [path.stem for path in sorted((CONFIGS.parent / "presets").glob("*.yaml"))]


class StoppedError(Exception):
    """Stands for a process that ends between two iterations."""


def content(kind: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONFIGS / f"{kind}.yaml").read_text(encoding="utf-8")))


def training(out: Path, iterations: int, **changes: Any) -> dict[str, Any]:
    """Overrides of a small training; MLflow takes seconds and stays out."""
    quiet = {"progress": False, "batch_size": 1, "mlflow": False}
    often = {"checkpoint_every": 2, "val_interval": 1}
    return {
        **SMALL,
        **quiet,
        **often,
        "output_dir": str(out),
        "max_iterations": iterations,
    } | changes


def opened(kind: str, preset: str | None = None, **changes: Any) -> ConfigWorkflow:
    files = [str(CONFIGS / f"{kind}.yaml")]
    if preset is not None:
        files.append(str(CONFIGS.parent / "presets" / f"{preset}.yaml"))
    kinds = "train" if kind == "train" else "infer"
    made = ConfigWorkflow(files, workflow_type=kinds, logging_file=False, **changes)
    made.initialize()
    return made


def flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested state with their names."""
    if not isinstance(tree, dict | list):
        yield name, tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from flat(value, f"{name}/{key}")


def differences(left: Path, right: Path) -> list[str]:
    """Names of what differs between two files of tensors and numbers."""
    a, b = (dict(flat(torch.load(path, weights_only=True))) for path in (left, right))
    assert a.keys() == b.keys()
    same = {k: torch.equal(v, b[k]) if isinstance(v, Tensor) else v == b[k] for k, v in a.items()}
    return [key for key, equal in same.items() if not equal]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train four iterations from another folder."""
    elsewhere, out = (tmp_path_factory.mktemp(name) for name in ("elsewhere", "out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        bundle_run(config_file=str(CONFIGS / "train.yaml"), logging_file=False, **training(out, 4))
    assert not list(elsewhere.iterdir())
    return out


def run(kind: str, trained: Path, out: Path, **changes: Any) -> None:
    options = {**SMALL, "weights": str(trained / "model.pt"), "output_dir": str(out), **changes}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained.parent)
        bundle_run(config_file=str(CONFIGS / f"{kind}.yaml"), logging_file=False, **options)


def test_training_writes_weights_and_reports(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= {"model.pt", "model.json", "checkpoints"}
    card = json.loads((trained / "model.json").read_text())
    assert (card["schema"], card["preset"], card["iterations"]) == ("brain4", "tiny", 4)
    assert (card["architecture"], card["learning_rate"]) == ("unet3d", 0.002)
    (line,) = (trained / "val_log.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    assert set(record) >= {"iteration", "mean_dice", "dice_cortex", "dice_brain"}
    report = json.loads((trained / "samples" / "000004.json").read_text())
    assert set(report["labels"]["cortex"]) == {"dice"}
    assert (trained / "samples" / "000004.png").stat().st_size > 1000


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(trained: Path, tmp_path: Path) -> None:
    first = opened("train", **training(tmp_path, 4))
    trainer: Engine = first.parser.get_parsed_content("train#trainer")

    def stop() -> None:
        raise StoppedError

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), stop)
    with pytest.raises(StoppedError):
        run_trainer(trainer)
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt")] == ["checkpoint_2.pt"]
    resumed = opened("train", **training(tmp_path, 4))
    assert resumed.parser.get_parsed_content("train#trainer").state.iteration == 2
    resumed.run()
    files = [folder / "checkpoints" / "checkpoint_4.pt" for folder in (tmp_path, trained)]
    assert differences(*files) == []
    assert differences(tmp_path / "model.pt", trained / "model.pt") == []
    learned = differences(trained / "checkpoints" / "checkpoint_2.pt", files[1])
    assert any(name.startswith("/network/") for name in learned)


def test_inference_writes_masks_beside_their_scans(trained: Path, tmp_path: Path) -> None:
    run("inference", trained, tmp_path / "first")
    made = PairSet.open(tmp_path / "first")
    data = load_arrays(PHANTOMS, "validation")
    assert made.ids() == data.ids
    pair = made.read(data.ids[0])
    assert pair.label.shape == (18, 17, 16)
    assert np.allclose(pair.image, data.images[0].clip(0, 1), atol=1e-6)
    again = str(tmp_path / "first")
    run("inference", trained, tmp_path / "second", dataset_dir=again)
    copy = PairSet.open(tmp_path / "second")
    assert copy.person(data.ids[0]) == made.person(data.ids[0])
    assert np.array_equal(copy.read(data.ids[0]).label, pair.label)
    assert np.array_equal(copy.read(data.ids[0]).affine, pair.affine)


def test_evaluation_scores_every_label_of_every_case(trained: Path, tmp_path: Path) -> None:
    run("evaluate", trained, tmp_path, tolerance=5.0)
    report = json.loads((tmp_path / "evaluation.json").read_text())
    ids = load_arrays(PHANTOMS, "validation").ids
    assert report["n"] == len(ids)
    assert set(report["cases"]) == set(ids)
    for case in report["cases"].values():
        assert set(case) == {"cortex", "subcortical_gm", "white_matter", "csf", "brain"}
        for score in case.values():
            assert set(score) == {"dice", "hd95_mm", "surface_dice"}
            numbers = [v for v in score.values() if not str(v).startswith("not computed: ")]
            assert all(v >= 0 for v in numbers)
    assert report["settings"]["tolerance_mm"] == 5.0
    assert (tmp_path / "evaluation.png").stat().st_size > 1000


def test_others_reach_masks_and_features_by_config_keys(trained: Path) -> None:
    parser = opened("inference", **SMALL, weights=str(trained / "model.pt")).parser
    segment, features = (parser.get_parsed_content(key) for key in ("segment", "features"))
    images = torch.rand(2, 18, 17, 16) * 2 - 1
    masks, maps = segment(images), features(images)
    assert masks.shape == images.shape
    assert masks.dtype == torch.uint8
    assert maps.shape == (2, 6, 9, 9, 8)
    assert maps.std() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "thorax7"}, r"schema 'brain4' with 6 classes, the config of 'thorax7'"),
        ({"num_classes": 5}, r"with 6 classes, the config of 'brain4' with 5"),
        ({"multiple": 0}, r"multiple is 0; want the product of the strides"),
        ({"precision": "half"}, r"precision is 'half'"),
        ({"dataset_dir": "/no/such/set"}, r"/no/such/set: no pair set"),
        ({"parts": [{"dir": "/no/such/set"}]}, r"/no/such/set: no pair set"),
        ({"roi_size": [9, 16, 16]}, r"roi_size is \[9, 16, 16\]; want D, H, W, multiples of"),
        ({"initial_weights": "/no/model.pt"}, r"/no/model\.pt: no such weight file"),
    ],
)
def test_a_config_that_cannot_work_says_so(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((MedpairError, RuntimeError)) as raised:
        opened("train", **training(tmp_path, 1, **changes)).run()
    error = plain(raised.value)
    assert re.search(message, str(error))
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("inference", {"weights": "/no/model.pt"}, r"/no/model\.pt: no such weight file"),
        ("inference", {"sizes::unet3d::channels": [4, 4, 4, 4]}, r"does not fit this network"),
        ("inference", {"architecture": "unet2d"}, r"of architecture 'unet3d', wanted 'unet2d'"),
        ("inference", {"image": "/no/scan.nii.gz"}, r"/no/scan\.nii\.gz: no such file"),
        ("inference", {"preset": "base"}, r"weights of preset 'tiny', wanted 'base'"),
        ("evaluate", {"split": "test"}, r"split"),
    ],
)
def test_a_wrong_use_says_so(
    kind: str, changes: dict[str, Any], message: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises((MedpairError, RuntimeError)) as raised:
        run(kind, trained, tmp_path, **changes)
    error = plain(raised.value)
    assert re.search(message, str(error))


def plain(error: BaseException | None) -> MedpairError:
    """The error that MONAI wraps."""
    while error is not None and not isinstance(error, MedpairError):
        error = error.__cause__
    assert isinstance(error, MedpairError)
    return error


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_overlay_every_config(preset: str) -> None:
    networks = []
    for kind in ("train", "inference", "evaluate"):
        parser = opened(kind, preset).parser
        network = parser.get_parsed_content("network_def")
        networks.append({name: value.shape for name, value in network.state_dict().items()})
        assert parser.get_parsed_content("preset") == preset
        assert parser.get_parsed_content("multiple") == np.prod(network.strides)
        assert set(parser.get_parsed_content("sizes")) == set(ARCHITECTURES)
    assert networks[0] == networks[1] == networks[2]
    megabytes = 2 * sum(shape.numel() for shape in networks[0].values()) / 1e6
    assert megabytes < {"tiny": 4, "small": 12}.get(preset, 25)


def test_the_configs_name_one_network() -> None:
    train, inference, evaluate = (content(kind) for kind in ("train", "inference", "evaluate"))
    for key in ("network_def", "sizes", "architecture", "num_classes", "schema", "preset"):
        assert train[key] == inference[key] == evaluate[key], key
    assert train["multiple"] == inference["multiple"] == evaluate["multiple"]
    assert set(train["learning_rates"]) == set(train["sizes"]) == set(ARCHITECTURES)


def test_a_training_of_parts_goes_on_from_weights_without_average_or_validation(
    trained: Path, tmp_path: Path
) -> None:
    parts = [{"dir": PHANTOMS, "num": 1}, {"dir": PHANTOMS, "split": "validation"}]
    changes = {"parts": parts, "initial_weights": str(trained / "model.pt"), "ema_decay": 0}
    made = opened("train", **training(tmp_path, 1, val_interval=0, **changes))
    data = made.parser.get_parsed_content("train#data")
    assert [name.split("/")[0] for name in data.ids] == ["0", "1"]
    assert differences_of(made.parser.get_parsed_content("network"), trained / "model.pt") == []
    made.run()
    assert not (tmp_path / "val_log.jsonl").exists()
    assert not (tmp_path / "samples").exists()
    network = made.parser.get_parsed_content("network")
    assert differences_of(network, trained / "model.pt") != []
    assert differences_of(network, tmp_path / "model.pt") == []


def differences_of(network: torch.nn.Module, path: Path) -> list[str]:
    """Names of the entries of a weight file that differ from a network's, in fp16."""
    state = network.state_dict()
    saved = torch.load(path, weights_only=True)
    return [name for name, value in saved.items() if not torch.equal(state[name].half(), value)]


def test_a_new_scan_gets_a_mask_on_its_own_grid(trained: Path, tmp_path: Path) -> None:
    """A phantom without mask, at another spacing, its axes in another order."""
    data = load_arrays("phantom:brain4:36x34x32:1", "training")
    affine = ras_affine(data.images[0].shape, (2.0, 2.0, 2.0), "AP")[:, [1, 0, 2, 3]]
    stored = 300 * data.images[0].transpose(0, 2, 1)  # D, W, H: A, R, S
    write_volume(tmp_path / "scan.nii.gz", stored.astype(np.float32), affine)
    image = str(tmp_path / "scan.nii.gz")
    run("inference", trained, tmp_path / "out", image=image, dataset_dir="/no/such/set")
    mask = read_volume(tmp_path / "out" / "scan_mask.nii.gz")
    assert mask.array.shape == stored.shape
    assert np.allclose(mask.affine, affine)
    assert mask.array.max() <= 5


def test_windows_slide_over_large_volumes(trained: Path) -> None:
    parser = opened("inference", **SMALL, weights=str(trained / "model.pt")).parser
    whole = parser.get_parsed_content("segment")
    parser["roi_size"] = [16, 16, 16]
    parser.parse(True)
    windows = parser.get_parsed_content("segment")
    images = torch.rand(1, 40, 17, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert windows(images).shape == whole(images).shape
    assert parser.get_parsed_content("features")(images).shape == (1, 6, 20, 9, 8)


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_the_properties_that_monai_asks_for_are_there(
    kind: str, trained: Path, tmp_path: Path
) -> None:
    if kind == "train":
        made = opened(kind, **training(tmp_path, 1))
    else:
        made = opened(kind, **SMALL, weights=str(trained / "model.pt"))
    assert not made.check_properties()


def test_the_first_tensors_are_named_as_servers_expect() -> None:
    described = json.loads((CONFIGS / "metadata.json").read_text())["network_data_format"]
    assert next(iter(described["inputs"])) == "image"
    assert next(iter(described["outputs"])) == "pred"
    assert described["inputs"]["image"]["value_range"] == [0, 1]
