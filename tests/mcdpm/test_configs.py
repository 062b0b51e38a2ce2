"""The configs as MONAI runs them: training from train.yaml alone, stopped and resumed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import Tensor

from common.data.phantom import parse_phantom
from common.engines.checkpoints import run_trainer
from common.engines.weights import load_weights, read_card
from common.errors import MedpairError
from common.stages import plain_errors

CONFIGS = Path(__file__).parents[2] / "bundles" / "mcdpm_mask" / "configs"
TRAIN, INFERENCE = CONFIGS / "train.yaml", CONFIGS / "inference.yaml"
PRESETS = CONFIGS.parent / "presets"
SMALL = {
    "dataset_dir": "phantom:brain4:16x16x16:2",
    "size": [16, 16],
    "batch_size": 2,
    "copies": 0,
    "sample_depth": 8,
    "network_def#channels": [16, 16, 16],
    "sampler#num_steps": 2,
    "progress": False,
}
MOST_PARAMETERS = 3_000_000


class StoppedError(Exception):
    """Stands for a process that ends between two iterations."""


def content(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def handler(target: str) -> str:
    """Where train.yaml has the handler of that class or function."""
    entries = content(TRAIN)["train"]["handlers"]
    targets = [e.get("_target_", "") if isinstance(e, dict) else "" for e in entries]
    (index,) = [i for i, name in enumerate(targets) if name.endswith("." + target)]
    return f"train#handlers#{index}"


def workflow(
    out: Path,
    iterations: int,
    *,
    tracking: bool = False,
    preset: str | None = None,
    **changes: Any,
) -> Any:
    """A small train.yaml that is ready to run; tracking takes seconds and stays out but once."""
    overrides = SMALL | {"output_dir": str(out), "max_iterations": iterations} | changes
    overrides[handler("Resume") + "#every"] = 3
    if not tracking:
        overrides[handler("Tracking") + "#_disabled_"] = True
    files = [str(TRAIN)] + ([str(PRESETS / f"{preset}.yaml")] if preset else [])
    meta = overrides.pop("meta_file", None)
    made = ConfigWorkflow(
        files, workflow_type="train", logging_file=False, meta_file=meta, **overrides
    )
    made.initialize()
    return made


def trainer_of(made: Any) -> Engine:
    return made.parser.get_parsed_content("train#trainer")


def train(out: Path, iterations: int, **changes: Any) -> Engine:
    made = workflow(out, iterations, **changes)
    made.run()
    made.finalize()
    return trainer_of(made)


def checkpoint(out: Path, iteration: int) -> dict[str, Any]:
    path = out / "checkpoints" / f"checkpoint_{iteration}.pt"
    return dict(torch.load(path, weights_only=True))


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """A nested state as one table."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for key, value in items for k, v in flat(value, f"{name}/{key}").items()}
    return {name: tree}


def differences(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    a, b = flat(left), flat(right)
    assert a.keys() == b.keys()
    return [k for k in a if not equal(a[k], b[k])]


def equal(left: Any, right: Any) -> bool:
    both = isinstance(left, Tensor) and isinstance(right, Tensor)
    return torch.equal(left, right) if both else bool(left == right)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six iterations that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    train(out, 6)
    return out


def test_the_training_has_the_properties_that_monai_asks_for(tmp_path: Path) -> None:
    assert not workflow(tmp_path, 2, meta_file=str(CONFIGS / "metadata.json")).check_properties()


def test_a_training_starts_from_given_weights(whole: Path, tmp_path: Path) -> None:
    made = workflow(tmp_path, 2, preset="finish", initial_weights=str(whole / "model.pt"))
    network, averaged = (made.parser.get_parsed_content(key) for key in ("network", "ema#network"))
    saved = torch.load(whole / "model.pt", weights_only=True)
    for key, value in saved.items():
        assert torch.equal(network.state_dict()[key], value.float())
    assert network.training
    made.run()
    begun = [torch.equal(averaged.state_dict()[k], v.float()) for k, v in saved.items()]
    assert not all(begun)
    assert json.loads((tmp_path / "model.json").read_text())["iterations"] == 2


def test_weights_of_another_schema_are_no_start(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / "model.pt", tmp_path)
    card = json.loads((whole / "model.json").read_text()) | {"schema": "thorax7"}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(MedpairError, match="weights of schema 'thorax7'"), plain_errors():
        train(tmp_path / "out", 2, initial_weights=str(tmp_path / "model.pt"))


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own calls
def test_train_yaml_alone_trains_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    train(out, 2, tracking=True, val_interval=1)
    assert not list(elsewhere.iterdir())
    names = {path.name for path in out.iterdir()}
    assert names >= {"model.pt", "model.json", "checkpoints", "mlruns.db", "val_log.jsonl"}
    assert [path.name for path in (out / "samples").iterdir()] == ["000002.png"]
    (line,) = (out / "val_log.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    assert record["iteration"] == 2
    assert 0 < record["val_loss"] < 100


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    first = workflow(tmp_path, 6)

    def stop() -> None:
        raise StoppedError

    trainer_of(first).add_event_handler(Events.ITERATION_COMPLETED(once=3), stop)
    with pytest.raises(StoppedError):
        run_trainer(trainer_of(first))
    assert (tmp_path / "checkpoints" / "checkpoint_3.pt").exists()
    resumed = workflow(tmp_path, 6)
    assert trainer_of(resumed).state.iteration == 3
    resumed.run()
    assert set(checkpoint(whole, 6)) == {"network", "ema", "optimizer", "position"}
    assert differences(checkpoint(whole, 3), checkpoint(whole, 6))  # it does learn
    assert differences(checkpoint(tmp_path, 6), checkpoint(whole, 6)) == []
    models = [torch.load(out / "model.pt", weights_only=True) for out in (tmp_path, whole)]
    assert differences(*models) == []


def test_a_finished_run_started_again_does_nothing(whole: Path) -> None:
    files = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    assert train(whole, 6).state.iteration == 6
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()} == files


def test_the_seed_makes_the_run(whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "other", 3, seed=1)
    assert differences(
        checkpoint(tmp_path / "other", 3)["network"], checkpoint(whole, 3)["network"]
    )


def test_the_exported_weights_are_the_averaged_network(whole: Path) -> None:
    card = read_card(whole / "model.pt")
    assert card["iterations"] == 6
    parser = ConfigParser(content(TRAIN) | {})
    parser["network_def#channels"] = SMALL["network_def#channels"]
    loaded = load_weights(
        parser.get_parsed_content("network_def"), whole / "model.pt", schema="brain4", preset="tiny"
    )
    average: dict[str, Tensor] = checkpoint(whole, 6)["ema"]
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, average[name].half().float())
    network = checkpoint(whole, 6)["network"]
    assert any(not torch.equal(average[name], network[name]) for name in average)


def test_a_mask_from_trained_weights(whole: Path) -> None:
    """What train.yaml wrote is what inference.yaml loads: same network, code and prediction."""
    parser = ConfigParser(content(INFERENCE))
    parser["weights"], parser["size"] = str(whole / "model.pt"), SMALL["size"]
    parser["network_def#channels"] = SMALL["network_def#channels"]
    parser["num_steps"] = 2
    sampler = parser.get_parsed_content("sampler")
    network = parser.get_parsed_content("network")
    scores = sampler(network, volumes=[0], starts=[2], depth=10, seed=0)
    assert scores.shape == (1, 10, 6, 16, 16)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("preset", ["paper", "slices_2p1d"])
def test_other_recipes_train_too(preset: str, tmp_path: Path) -> None:
    """The literal reading of the paper (scalar code, eps, linear, n = 2) and the (2+1)D network."""
    train(tmp_path, 1, preset=preset, val_interval=1)
    assert read_card(tmp_path / "model.pt")["preset"] == preset
    assert (tmp_path / "samples" / "000001.png").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "thorax7"}, r"schema 'brain4' with 6 classes, the config of 'thorax7'"),
        ({"num_classes": 5}, r"with 6 classes, the config of 'brain4' with 5"),
        ({"label_code": "bits"}, r"label_code is 'bits'"),
        ({"label_code": "scalar"}, r"'logits' with a label code of one channel"),
        ({"label_code": "scalar", "prediction": "v"}, r"1 code channels, wanted 6 and 6"),
        ({"modes#forward": 0.9}, r"p_F, p_B, p_U are \(0\.9, 0\.4, 0\.2\)"),
        ({"modes#condition_slices": 6}, r"condition_slices 6, wanted"),
        ({"window": 5}, r"5 slices with 6 code channels, wanted 6 and 6"),
        ({"window": 20, "network_def#window": 20}, r"has 16 slices, wanted at least window=20"),
        ({"size": [15, 16]}, r"slices of 15x16, wanted multiples of 2"),
        ({"precision": "half"}, r"precision is 'half'"),
        ({"schedule#name": "square"}, r"schedule: 'square'"),
        ({"dataset_dir": "/no/such/set"}, r"no pair set"),
    ],
)
def test_a_config_that_cannot_work_says_so(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    made = workflow(tmp_path, 1, **changes)
    with pytest.raises((MedpairError, RuntimeError)) as raised:
        made.run()
    error: BaseException | None = raised.value
    while error is not None and not isinstance(error, MedpairError):
        error = error.__cause__  # MONAI wraps what a config's calls raise
    assert re.search(message, str(error))


def network_of(path: Path, overlay: Path | None = None) -> torch.nn.Module:
    parser = ConfigParser(content(path))
    for key, value in (content(overlay) if overlay else {}).items():
        if key.startswith("network_def"):
            parser[key.replace("::", "#")] = value
    return parser.get_parsed_content("network_def")


def test_training_and_inference_name_one_network_and_one_diffusion() -> None:
    train_config, inference = content(TRAIN), content(INFERENCE)
    keys = ("network_def", "schema", "preset", "window", "size", "label_code", "num_classes")
    for key in (*keys, "prediction", "schedule"):
        assert train_config[key] == inference[key], key


def test_the_tiny_network_has_at_most_three_million_parameters() -> None:
    assert sum(p.numel() for p in network_of(INFERENCE).parameters()) <= MOST_PARAMETERS
    sliced = network_of(INFERENCE, PRESETS / "slices_2p1d.yaml")
    assert sum(p.numel() for p in sliced.parameters()) <= MOST_PARAMETERS


def test_defaults_stand_alone() -> None:
    """Every size of train.yaml fits the phantoms it trains on by default."""
    config = content(TRAIN)
    schema, (depth, height, width), _ = parse_phantom(config["dataset_dir"])
    assert schema.name == config["schema"]
    assert schema.num_classes == config["num_classes"] == config["network_def"]["code_channels"]
    assert [height, width] == config["size"]
    assert depth >= config["window"] == config["network_def"]["window"]
