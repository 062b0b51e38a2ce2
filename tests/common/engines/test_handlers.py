import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from common.engines.batches import IterationBatches
from common.engines.handlers import (
    ClipGradients,
    LossLog,
    MetricLog,
    SeedIterations,
    StopOnNaN,
    WarmupCosine,
    loss_metric,
    lower_is_better,
    report_iterations,
    scalar_losses,
)
from common.errors import MedpairError


def make_optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_warmup_rises_straight_then_a_cosine_falls_to_the_share_asked_for() -> None:
    schedule = WarmupCosine(make_optimizer(1.0), max_iterations=1000, warmup=100, final=0.1)
    f = [schedule.factor(i) for i in range(1001)]
    assert f[1] == pytest.approx(0.01, rel=1e-3)
    assert all(a < b for a, b in pairwise(f[1:101]))
    assert all(a > b for a, b in pairwise(f[100:]))
    assert f[500] == pytest.approx((1 + 0.1) / 2)  # half way down the cosine
    assert f[1000] == pytest.approx(0.1)
    assert schedule.factor(5000) == pytest.approx(0.1)  # an extended run stays there


def test_every_group_keeps_its_own_peak_also_when_the_schedule_is_made_again() -> None:
    optimizer = make_optimizer(1.0, 0.5)
    schedule = WarmupCosine(optimizer, max_iterations=10, warmup=2)
    trainer = Engine(lambda e, b: None)
    schedule.attach(trainer)
    seen: list[list[float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: seen.append([g["lr"] for g in optimizer.param_groups])
    )
    trainer.run([0] * 10)
    assert [one for one, _ in seen] == pytest.approx([schedule.factor(i) for i in range(1, 11)])
    assert [half for _, half in seen] == pytest.approx([one / 2 for one, _ in seen])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training(bad: float) -> None:
    def step(engine: Engine, _: object) -> dict[str, Any]:
        value = bad if engine.state.iteration >= 5 else 1.0
        return {"loss": torch.tensor(value), "pred": torch.full((2,), math.nan)}

    trainer = Engine(step)
    StopOnNaN(every=2).attach(trainer)
    with pytest.raises(MedpairError, match=r"iteration 6: \{'loss': .*smaller learning rate"):
        trainer.run([0] * 10)


def test_only_scalars_count_as_losses() -> None:
    output = {"loss": torch.tensor(2.0), "g_loss": 3.0, "pred": torch.zeros(2), "id": "a"}
    assert scalar_losses(output) == {"loss": 2.0, "g_loss": 3.0}


def test_gradients_are_limited_before_the_step() -> None:
    network = nn.Linear(4, 1, bias=False)

    def step(engine: Engine, scale: float) -> float:
        network.zero_grad()
        (scale * network.weight).sum().backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        assert network.weight.grad is not None
        return float(network.weight.grad.norm())

    trainer = Engine(step)
    trainer.register_events(*IterationEvents)
    ClipGradients(network, max_norm=1.0).attach(trainer)
    norms: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: norms.append(float(e.state.output))
    )
    trainer.run([100.0, 0.1])
    assert norms == pytest.approx([1.0, 0.2], rel=1e-4)


def test_the_loss_log_holds_means_over_the_lines_and_the_learning_rate(tmp_path: Path) -> None:
    trainer = Engine(lambda e, x: {"loss": torch.tensor(x), "pred": torch.zeros(2)})
    LossLog(str(tmp_path / "new"), make_optimizer(0.25), every=2, progress=False).attach(trainer)
    trainer.run([1.0, 3.0, 5.0, 9.0, 100.0])
    lines = read_lines(tmp_path / "new" / "train_log.jsonl")
    assert [(x["iteration"], x["loss"], x["lr"]) for x in lines] == [(2, 2.0, 0.25), (4, 7.0, 0.25)]
    assert all(x["seconds"] >= 0 for x in lines)


def test_iterations_are_seeded_by_their_number_and_the_data_follow() -> None:
    def run(first: int) -> list[tuple[int, float]]:
        batches = IterationBatches(lambda g: {}, seed=1, epoch_length=6)
        trainer = Engine(lambda e, batch: (batch["iteration"], float(torch.rand(()))))
        SeedIterations(batches, seed=1).attach(trainer)
        seen: list[tuple[int, float]] = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output))
        trainer.state.max_epochs, trainer.state.epoch_length = 1, 6
        trainer.state.iteration = first
        torch.manual_seed(first)  # another history of the global generator
        trainer.run(batches)
        return seen

    whole = run(0)
    assert [number for number, _ in whole] == [0, 1, 2, 3, 4, 5]
    assert len({value for _, value in whole}) == 6
    assert run(4) == whole[4:]


def test_the_validation_loss_is_the_mean_over_windows_and_is_logged(tmp_path: Path) -> None:
    outputs = [(torch.full((2, 3), 1.0), 2), (torch.full((4, 3), 4.0), 4)]

    def step(_: Engine, item: tuple[torch.Tensor, int]) -> dict[str, torch.Tensor]:
        return {"pred": item[0], "label": torch.zeros_like(item[0])}

    evaluator = Engine(step)
    loss_metric(nn.L1Loss()).attach(evaluator, "val_loss")
    batches = IterationBatches(lambda g: {}, seed=0, epoch_length=1)
    batches.iteration = 7
    MetricLog(str(tmp_path), batches).attach(evaluator)
    evaluator.run(outputs)
    wanted = (2 * 1.0 + 4 * 4.0) / 6
    assert read_lines(tmp_path / "val_log.jsonl") == [
        {"iteration": 7, "val_loss": pytest.approx(wanted)}
    ]
    assert lower_is_better(1.0, 2.0)
    assert not lower_is_better(2.0, 1.0)


def test_a_trainer_says_how_far_it_is_counting_what_a_checkpoint_had() -> None:
    told: list[tuple[str, int, int]] = []
    trainer = Engine(lambda e, b: None)
    trainer.load_state_dict({"iteration": 4, "max_epochs": 2, "epoch_length": 3})
    report_iterations(trainer, "train mask", lambda *step: told.append(step))
    assert told == [("train mask", 4, 6)]  # before it runs
    trainer.run([0] * 3)
    assert told[1:] == [("train mask", 5, 6), ("train mask", 6, 6)]
