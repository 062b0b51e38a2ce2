"""3D-alpha-WGAN as a user runs it: train, resume, make a pair set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from torch import Tensor

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.engines.checkpoints import run_trainer
from common.engines.weights import read_card
from common.errors import MedpairError
from segeval.baselines.alpha_wgan import VolumeGenerator
from segeval.baselines.wgan_stage import EMPTY, AlphaWganStage, draw_codes, open_segmenter

CONFIGS = bundles_dir() / "segmentation_eval" / "configs"
SMALL = {"size": [16, 17, 18], "channels": [4, 8], "latent": 5, "device": "cpu"}
PHANTOMS = "phantom:brain4:16x17x18:3"


class StoppedError(Exception):
    """Stands for a process that ends between two iterations."""


def content(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")))


def place(target: str) -> str:
    names = [entry["_target_"] for entry in content("train_alpha_wgan")["train"]["handlers"]]
    (index,) = [i for i, name in enumerate(names) if name.endswith(f".{target}")]
    return f"train::handlers::{index}"


def opened(name: str, out: Path, **changes: Any) -> ConfigWorkflow:
    options = {**SMALL, "output_dir": str(out), **changes}
    kind = "train" if name.startswith("train") else "infer"
    made = ConfigWorkflow(
        [str(CONFIGS / f"{name}.yaml")], workflow_type=kind, logging_file=False, **options
    )
    made.initialize()
    return made


def training(out: Path, iterations: int = 4, **changes: Any) -> ConfigWorkflow:
    """Open a small training; MLflow takes seconds and stays out."""
    quiet = {"progress": False, f"{place('Tracking')}::_disabled_": True}
    small = {"dataset_dir": PHANTOMS, "batch_size": 2, "hidden": 6, "max_iterations": iterations}
    often = {f"{place('Resume')}::every": 2, "learning_rate": 0.002}
    return opened("train_alpha_wgan", out, **{**quiet, **small, **often, **changes})


def trainer_of(made: ConfigWorkflow) -> Engine:
    trainer: Engine = made.parser.get_parsed_content("train#trainer")
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    training(out).run()
    return out


def test_training_writes_weights_card_and_pictures(trained: Path) -> None:
    card = read_card(trained / "model.pt")
    assert (card["schema"], card["iterations"], card["size"]) == ("brain4", 4, [16, 17, 18])
    assert (trained / "samples" / "000004.png").stat().st_size > 1000
    names = torch.load(trained / "model.pt", weights_only=True)
    assert all(name.startswith(("start.", "body.")) for name in names)  # the generator alone


def test_a_few_iterations_lower_the_reconstruction_error(tmp_path: Path) -> None:
    made = training(tmp_path, 24, learning_rate=0.005)
    errors: list[float] = []
    trainer = trainer_of(made)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: errors.append(float(engine.state.output["l1"]))
    )
    run_trainer(trainer)
    assert len(errors) == 24
    assert np.mean(errors[-4:]) < 0.7 * np.mean(errors[:2])


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict | list):
        return {name: tree}
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {k: v for key, value in pairs for k, v in flat(value, f"{name}/{key}").items()}


def differences(left: Path, right: Path) -> list[str]:
    a, b = (flat(torch.load(path, weights_only=True)) for path in (left, right))
    assert a.keys() == b.keys()
    same = {k: torch.equal(v, b[k]) if isinstance(v, Tensor) else v == b[k] for k, v in a.items()}
    return [key for key, equal in same.items() if not equal]


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(trained: Path, tmp_path: Path) -> None:
    trainer = trainer_of(training(tmp_path))

    def stop() -> None:
        raise StoppedError

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), stop)
    with pytest.raises(StoppedError):
        run_trainer(trainer)
    resumed = training(tmp_path)
    assert trainer_of(resumed).state.iteration == 2
    resumed.run()
    files = [folder / "checkpoints" / "checkpoint_4.pt" for folder in (tmp_path, trained)]
    assert differences(*files) == []
    assert differences(tmp_path / "model.pt", trained / "model.pt") == []
    learned = differences(trained / "checkpoints" / "checkpoint_2.pt", files[1])
    for part in ("network", "ema", "encoder", "discriminator", "code_discriminator"):
        assert any(name.startswith(f"/{part}/") for name in learned), part


def test_the_generator_may_step_twice_on_one_gradient(tmp_path: Path) -> None:
    steps = {"generator": 0, "encoder": 0, "discriminator": 0, "code_discriminator": 0}
    made = training(tmp_path, 1, **{"loss::generator_steps": 2})
    for name, optimizer in trainer_of(made).optimizers.items():

        def count(*_: Any, name: str = name) -> None:
            steps[name] += 1

        optimizer.register_step_post_hook(count)
    made.run()
    assert steps == {"generator": 2, "encoder": 1, "discriminator": 1, "code_discriminator": 1}


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    made = training(tmp_path, 20, **{"loss::l1": float("nan")})
    with pytest.raises(MedpairError, match=r"iteration 10: .* wanted finite losses"):
        run_trainer(trainer_of(made))


def make(trained: Path, out: Path, **changes: Any) -> PairSet:
    few = {"num": 3, "batch_volumes": 2, "segmenter": None, "weights": str(trained / "model.pt")}
    opened("alpha_wgan", out, **{**few, **changes}).run()
    return PairSet.open(out)


def test_equal_seeds_give_equal_bytes_also_after_an_interruption(
    trained: Path, tmp_path: Path
) -> None:
    first = make(trained, tmp_path / "first")
    make(trained, tmp_path / "again", num=1)
    again = make(trained, tmp_path / "again")  # goes on
    other = make(trained, tmp_path / "other", seed=1)
    assert len(first.ids()) == 3
    for name in first.ids():
        ours, theirs = (pairs.paths(name)[0].read_bytes() for pairs in (first, again))
        assert ours == theirs
    ours, theirs = (pairs.read(pairs.ids()[0]).image for pairs in (first, other))
    assert not np.array_equal(ours, theirs)
    assert ours.shape == (16, 17, 18)
    assert 0 <= ours.min() < ours.max() <= 1


def test_the_set_says_that_its_masks_are_empty(trained: Path, tmp_path: Path) -> None:
    made = make(trained, tmp_path)
    assert made.header["generated"]["masks"] == EMPTY
    assert made.header["generated"]["baseline"] == "3D-alpha-WGAN"
    assert not made.read(made.ids()[0]).label.any()


def test_masks_are_what_a_segmenter_finds_in_the_images() -> None:
    generator = VolumeGenerator((16, 17, 18), (4, 8), 5).eval()
    batch = PairBatch((0, 3), 7, load_schema("brain4"), (4.0, 4.0, 4.0), (16, 17, 18))
    found = AlphaWganStage(generator, "brain4", lambda image: (image > 0).byte())(batch)
    assert found.image_VDHW is not None
    assert found.label_VDHW is not None
    assert torch.equal(found.label_VDHW, (found.image_VDHW > 0).byte())
    with pytest.raises(MedpairError, match="schema 'brain4', its weights are for 'brats3'"):
        AlphaWganStage(generator, "brats3")(batch)
    wrong = PairBatch((0,), 7, load_schema("brain4"), (4.0, 4.0, 4.0), (16, 16, 16))
    with pytest.raises(MedpairError, match=r"the weights make \(16, 17, 18\)"):
        AlphaWganStage(generator, "brain4")(wrong)


def test_a_code_depends_on_its_number_alone() -> None:
    together, alone = draw_codes(3, (4, 9), 11), draw_codes(3, (9,), 11)
    assert torch.equal(together[1:], alone)
    assert not torch.equal(together[:1], alone)


def test_a_segmenter_of_another_schema_is_refused() -> None:
    assert open_segmenter(None, "brats3", "tiny") is None
    with pytest.raises(MedpairError, match="knows schema brain4, wanted brats3"):
        open_segmenter("segmentation_eval", "brats3", "tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "batch_size: 1, wanted >= 2"),
        ({"size": [16, 16, 16]}, "set size to that of the volumes"),
        ({"schema": "brats3"}, "brats3"),
        ({"critic_norm": "layer"}, "norm: 'layer'"),
    ],
)
def test_what_cannot_be_trained_says_so(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((MedpairError, RuntimeError)) as raised:
        training(tmp_path, 1, **changes).run()
    error: BaseException | None = raised.value
    while error is not None and not isinstance(error, MedpairError):
        error = error.__cause__  # MONAI wraps what a config's objects raise
    assert message in str(error)
    assert "\n" not in str(error)


def test_training_and_sampling_name_one_network() -> None:
    train, sample = content("train_alpha_wgan"), content("alpha_wgan")
    for key in ("network_def", "size", "channels", "latent", "norm", "schema", "preset"):
        assert train[key] == sample[key], key


def test_a_log_line_names_every_loss(tmp_path: Path) -> None:
    training(tmp_path, 2, **{f"{place('LossLog')}::every": 1}).run()
    line = json.loads((tmp_path / "train_log.jsonl").read_text().splitlines()[0])
    assert {"l1", "adversarial", "code", "loss", "d_loss", "d_gap", "d_penalty", "c_loss"} < set(
        line
    )
