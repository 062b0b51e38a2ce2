"""The baseline DDPM: its networks, and its configs run as a user runs them, from another folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.bundle import run as bundle_run  # what `python -m monai.bundle run` calls
from PIL import Image
from torch import Tensor

from common.bundles import bundles_dir
from common.engines.checkpoints import run_trainer
from common.errors import MedpairError
from common.stages import plain_errors
from sdm.unconditional import UnconditionalDenoisers
from sdm.views import VIEWS, ViewDenoisers

# MONAI warns whoever runs a config that it is code
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")

CONFIGS = bundles_dir() / "sdm_refiner" / "configs"
TINY = {
    "channels": [4, 8],
    "attention_levels": [False, True],
    "num_head_channels": 4,
    "norm_num_groups": 2,
}
SMALL = {
    **{f"network_def::{key}": value for key, value in TINY.items()},
    "dataset_dir": "phantom:brain4:18x17x16:2",  # no multiple of the stride
    "device": "cpu",
}


class StoppedError(Exception):
    """Stands for a process that ends between two iterations."""


def make(**changes: Any) -> UnconditionalDenoisers:
    """Small networks with weights that do something (untrained ones give zeros)."""
    torch.manual_seed(0)
    network = UnconditionalDenoisers(**(TINY | changes))
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network.eval()


def test_masks_and_positions_play_no_part() -> None:
    network, x = make(), torch.randn(2, 1, 8, 12)
    t, position = torch.tensor([3.0, 900.0]), torch.rand(2, 2)
    bare = network(x, t, None, None, "axial")
    assert torch.equal(network(x, t, torch.rand(2, 6, 8, 12), position, "axial"), bare)
    assert bare.any()
    assert not torch.equal(network(x, t, None, None, "coronal"), bare)
    assert not torch.equal(network(x, t + 50, None, None, "axial"), bare)


def test_it_stands_where_the_refiners_networks_stand(
    make_network: Callable[..., ViewDenoisers],
) -> None:
    refiner, baseline = make_network(), make()
    x, t, position = torch.randn(2, 1, 8, 12), torch.tensor([3.0, 900.0]), torch.rand(2, 2)
    mask = refiner.one_hot(torch.zeros(2, 1, 8, 12))
    for view in VIEWS:
        shapes = {n(x, t, mask, position, view).shape for n in (refiner, baseline)}
        assert shapes == {x.shape}


def test_channels_and_stride_follow_the_settings() -> None:
    network = make(image_channels=3, channels=[4, 8, 8], attention_levels=[False] * 3)
    assert network.stride == 4
    x = torch.randn(1, 3, 8, 12)
    assert network(x, torch.zeros(1), None, None, "sagittal").shape == x.shape


def test_unknown_and_untrained_views_are_named() -> None:
    with pytest.raises(MedpairError, match=r"views: \['oblique'\]; want some of \['axial'"):
        UnconditionalDenoisers(["oblique"])
    with pytest.raises(MedpairError, match="view 'axial' has no network; want one of coronal"):
        make(views=["coronal"])(torch.zeros(1, 1, 4, 4), torch.zeros(1), None, None, "axial")


def handler(target: str) -> str:
    """Where train_ddpm.yaml has the handler of that class or function."""
    content = yaml.safe_load((CONFIGS / "train_ddpm.yaml").read_text(encoding="utf-8"))
    names = [entry["_target_"] for entry in content["train"]["handlers"]]
    (index,) = [i for i, name in enumerate(names) if name.endswith("." + target)]
    return f"train::handlers::{index}"


def training(out: Path) -> dict[str, Any]:
    """Overrides of a training of four iterations; MLflow takes seconds and stays out."""
    return {
        **SMALL,
        "output_dir": str(out),
        "max_iterations": 4,
        "batch_size": 2,
        "progress": False,
        "val_interval": 1,
        handler("Resume") + "::every": 2,
        handler("Tracking") + "::_disabled_": True,
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train from another folder."""
    elsewhere, out = (tmp_path_factory.mktemp(name) for name in ("elsewhere", "out"))
    config = str(CONFIGS / "train_ddpm.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        bundle_run(config_file=config, logging_file=False, **training(out))
    assert not list(elsewhere.iterdir())
    return out


def sampled(trained: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Run sample_ddpm.yaml from another folder and return its report."""
    options = SMALL | {"weights": str(trained / "model.pt"), "output_dir": str(out)}
    options |= {"num_steps": 2, "slices_per_view": 3, **changes}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained.parent)
        config = str(CONFIGS / "sample_ddpm.yaml")
        bundle_run(config_file=config, logging_file=False, **options)
    return dict(json.loads((out / "samples.json").read_text(encoding="utf-8")))


def test_training_writes_weights_and_a_validation_loss(trained: Path) -> None:
    card = json.loads((trained / "model.json").read_text(encoding="utf-8"))
    assert (card["schema"], card["preset"], card["iterations"]) == ("brain4", "tiny", 4)
    (line,) = (trained / "val_log.jsonl").read_text(encoding="utf-8").splitlines()
    assert 0.3 < json.loads(line)["val_loss"] < 3  # the noise has variance 1


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(trained: Path, tmp_path: Path) -> None:
    def opened() -> ConfigWorkflow:
        path = str(CONFIGS / "train_ddpm.yaml")
        workflow = ConfigWorkflow(
            path, workflow_type="train", logging_file=False, **training(tmp_path)
        )
        workflow.initialize()
        return workflow

    def stop() -> None:
        raise StoppedError

    trainer: Engine = opened().parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), stop)
    with pytest.raises(StoppedError):
        run_trainer(trainer)
    opened().run()
    last = Path("checkpoints", "checkpoint_4.pt")
    a, b = (torch.load(out / last, weights_only=True) for out in (tmp_path, trained))
    for name in ("network", "ema"):
        assert all(torch.equal(value, b[name][key]) for key, value in a[name].items())
    assert str(a["optimizer"]) == str(b["optimizer"])


def test_samples_are_files_a_picture_per_view_and_a_report(trained: Path, tmp_path: Path) -> None:
    report = sampled(trained, tmp_path, sampler="dpm_solver_pp_2m")
    sizes = {"axial": (18, 16), "coronal": (17, 16), "sagittal": (18, 17)}
    with np.load(tmp_path / "samples.npz") as slices:
        assert {view: slices[view].shape[2:] for view in slices} == sizes
        for view in slices:
            assert slices[view].shape[:2] == (3, 1)
            assert slices[view].dtype == np.float32
            assert 0 <= slices[view].min() < slices[view].max() <= 1
    for view in VIEWS:
        with Image.open(tmp_path / f"{view}.png") as picture:
            assert picture.width > 3 * 16
    assert (report["sampler"], report["num_steps"], report["preset"]) == (
        "dpm_solver_pp_2m",
        2,
        "tiny",
    )
    absent = "not computed: no weights of a slice network are given"
    assert report["frechet_distance"]["axial"]["distance"] == absent


class Moments(torch.nn.Module):
    """A slice network of two features, mean and square of the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), x.square().mean((1, 2, 3))], 1)


def test_a_given_slice_network_gives_a_distance_per_view(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "moments.pt"
    torch.jit.save(torch.jit.script(Moments()), str(path))
    changes = {"slice_network": str(path), "split": "training", "views": ["coronal"]}
    with pytest.raises(MedpairError, match="does not fit this network"), plain_errors():
        sampled(trained, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()
    report = sampled(trained, tmp_path / "out", **(changes | {"views": list(VIEWS)}))
    assert report["extractor"] == "moments"
    for view in VIEWS:
        found = report["frechet_distance"][view]
        assert found["slices"] == 3
        assert found["ratio"] == pytest.approx(found["distance"] / found["floor"])
