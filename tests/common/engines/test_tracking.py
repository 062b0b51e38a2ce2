"""What MLflow keeps of a training, read back through its client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from monai.bundle import ConfigWorkflow

from common.bundles import bundles_dir
from common.engines.tracking import Tracking

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
TRAININGS = sorted(bundles_dir().glob("*/configs/train*.yaml"))


def only_run(folder: Path, experiment: str) -> tuple[MlflowClient, Any]:
    client = MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    return client, run


def train(folder: Path, iterations: int, **losses: float) -> None:
    """An adversarial training that validates and draws after each epoch of 50 iterations."""
    trainer = Engine(lambda *_: {name: torch.tensor(value) for name, value in losses.items()})
    (folder / "samples").mkdir(parents=True)
    (folder / "config_20260101_000000.json").write_text("{}")
    (folder / "config_20260102_000000.json").write_text('{"seed": 1}')

    def validate(engine: Engine) -> None:
        line = {"iteration": engine.state.iteration, "val_loss": 1 / engine.state.epoch}
        with (folder / "val_log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        (folder / "samples" / f"{engine.state.iteration:06d}.png").write_bytes(b"picture")

    Tracking(str(folder), "test").attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    trainer.run(range(50), max_epochs=iterations // 50)


def test_losses_keep_their_names_and_validations_their_iterations(tmp_path: Path) -> None:
    train(tmp_path, 150, loss=2.0, g_loss=0.5, d_loss=0.25)
    client, run = only_run(tmp_path, "test")
    for name, value in (("loss", 2.0), ("g_loss", 0.5), ("d_loss", 0.25)):
        history = client.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in history] == [(50, value), (100, value), (150, value)]
    history = client.get_metric_history(run.info.run_id, "val_loss")
    assert [(m.step, round(m.value, 3)) for m in history] == [(50, 1.0), (100, 0.5), (150, 0.333)]
    assert run.info.status == "FINISHED"


def test_pictures_and_the_newest_config_are_kept(tmp_path: Path) -> None:
    train(tmp_path, 100, loss=1.0)
    kept = {p.name: p.read_bytes() for p in (tmp_path / "mlruns").rglob("artifacts/*")}
    assert kept == {
        "config_20260102_000000.json": b'{"seed": 1}',
        "000050.png": b"picture",
        "000100.png": b"picture",
    }


@pytest.mark.parametrize("path", TRAININGS, ids=lambda p: f"{p.parts[-3]}/{p.stem}")
def test_every_training_is_tracked_by_ours_alone(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    targets = [h["_target_"] for h in content["train"]["handlers"]]
    assert targets.count("common.engines.tracking.Tracking") == 1
    assert content["is_not_rank0"] is True  # what MONAI's own handler is left out by


def test_the_word_tracking_keeps_the_resolved_config(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small: dict[str, Any] = {
        "dataset_dir": "phantom:brain4:16x16x16:2",
        "size": [16, 16],
        "sample_depth": 8,
        "copies": 0,
        "batch_size": 2,
        "progress": False,
        "network_def#channels": [16, 16, 16],
        "sampler#num_steps": 2,
        "max_iterations": 2,
        "val_interval": 1,
        "device": "cpu",
    }
    flow = ConfigWorkflow(
        str(bundles_dir() / "mcdpm_mask" / "configs" / "train.yaml"),
        workflow_type="train",
        logging_file=False,
        tracking="mlflow",
        output_dir=str(out),
        **small,
    )
    flow.initialize()
    flow.run()
    client, run = only_run(out, "mcdpm_mask")
    assert client.get_metric_history(run.info.run_id, "val_loss")
    (config,) = (out / "mlruns").rglob("artifacts/config_*.json")
    assert json.loads(config.read_text())["max_iterations"] == 2
    assert [p.name for p in (out / "mlruns").rglob("artifacts/*.png")] == ["000002.png"]
