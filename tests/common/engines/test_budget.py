"""A training with a wall-clock budget, on a clock that only its updates move."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from common.engines.batches import Batch, IterationBatches
from common.engines.budget import Budget, budget_of, once_at
from common.engines.checkpoints import Ema, Resume, latest_checkpoint, run_trainer
from common.engines.handlers import SeedIterations, WarmupCosine, report_iterations
from common.errors import MedpairError

LENGTH, STEP_S = 8, 1.5
Objects = dict[str, nn.Module | torch.optim.Optimizer]


class KilledError(Exception):
    """Stands for a process that ends between two iterations."""


class Clock:
    """Seconds that pass in an update and at no other time."""

    def __init__(self, began: float = 1000.0) -> None:
        self.now = began

    def __call__(self) -> float:
        return self.now


def draw(generator: torch.Generator) -> Batch:
    x = torch.randn(8, 3, generator=generator)
    return {"x": x, "y": x.sum(1, keepdim=True)}


class Training:
    """A small training with a budget, and the learning rates and validations that it saw."""

    def __init__(
        self,
        folder: Path,
        minutes: float | None,
        *,
        clock: Clock | None = None,
        every: float = 0.1,
        slow_batches: list[float] | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.clock = clock or Clock()
        network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
        slow = [0.0] * 100 if slow_batches is None else slow_batches

        def slowly(generator: torch.Generator) -> Batch:
            self.clock.now += slow.pop(0)
            return draw(generator)

        batches = IterationBatches(slowly, 3, LENGTH)

        def step(_: Engine, batch: Batch) -> Tensor:
            self.clock.now += STEP_S
            optimizer.zero_grad()
            loss = (network(batch["x"]) - batch["y"]).square().mean()
            loss.backward()
            optimizer.step()
            return torch.as_tensor(loss.detach())

        self.trainer, self.validator = Engine(step), Engine(lambda e, b: None)
        self.trainer.state.max_epochs, self.trainer.state.epoch_length = 2, LENGTH
        self.validated: list[int] = []
        self.validator.run = lambda epoch: self.validated.append(epoch)
        ema = Ema(network, decay=0.9, warmup=5)
        self.objects: Objects = {"network": network, "ema": ema.network, "optimizer": optimizer}
        self.schedule = WarmupCosine(optimizer, warmup=4)
        self.budget = Budget(minutes, self.validator, self.clock)
        resume = Resume(str(folder), self.objects, every=3, minutes=every)
        for handler in (SeedIterations(batches, 3), self.schedule, ema, self.budget, resume):
            handler.attach(self.trainer)
        inner = self.trainer.run
        self.trainer.run = lambda: inner(batches, max_epochs=self.trainer.state.max_epochs)
        self.rates: list[float] = []
        self.trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: self.rates.append(optimizer.param_groups[0]["lr"])
        )

    def run(self, killed_at: int | None = None) -> Training:
        if killed_at is None:
            run_trainer(self.trainer)
            return self

        def die() -> None:
            raise KilledError

        self.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=killed_at), die)
        with pytest.raises(KilledError):
            run_trainer(self.trainer)
        return self


def assert_same_state(left: Objects, right: Objects) -> None:
    for name in left:
        one, other = left[name].state_dict(), right[name].state_dict()
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_the_learning_rate_is_the_cosine_of_the_share_that_is_spent(tmp_path: Path) -> None:
    training = Training(tmp_path, minutes=1).run()
    assert len(training.rates) == 60 / STEP_S  # it ends when the budget does
    final = training.schedule.final
    for i, rate in enumerate(training.rates):
        f = i * STEP_S / 60  # spent before the update
        cosine = final + (1 - final) * (1 + math.cos(math.pi * f)) / 2
        assert rate == pytest.approx(0.1 * cosine * min(1, max((i + 1) / 4, f / 0.05)))
    after_warmup = training.rates[4:]
    assert after_warmup == sorted(after_warmup, reverse=True)


def test_a_spent_budget_ends_with_a_validation_and_a_checkpoint(tmp_path: Path) -> None:
    training = Training(tmp_path, minutes=0.5).run()  # 20 updates, inside the third epoch
    assert training.trainer.state.iteration == 20
    assert training.validated == [3]
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "checkpoint_20.pt"


def test_started_again_a_spent_budget_is_not_run_again_and_a_longer_one_is(tmp_path: Path) -> None:
    Training(tmp_path, minutes=0.5).run()
    again = Training(tmp_path, minutes=0.5).run()
    assert again.rates == []
    assert again.validated == []
    assert len(Training(tmp_path, minutes=1).run().rates) == 20


@pytest.mark.parametrize("killed_at", [3, 4, 11, 16, 39])
def test_a_killed_run_ends_like_an_uninterrupted_one(killed_at: int, tmp_path: Path) -> None:
    whole = Training(tmp_path / "whole", minutes=1).run()
    Training(tmp_path / "killed", minutes=1).run(killed_at)
    resumed = Training(tmp_path / "killed", minutes=1, clock=Clock(began=5.0))
    done = killed_at // 4 * 4  # checkpoints come every 0.1 min = 4 updates
    assert resumed.trainer.state.iteration == done
    assert resumed.budget.spent == done * STEP_S
    resumed.run()
    assert resumed.rates == whole.rates[done:]
    assert resumed.trainer.state.iteration == whole.trainer.state.iteration
    assert_same_state(resumed.objects, whole.objects)


def test_a_run_without_a_budget_goes_on_with_one(tmp_path: Path) -> None:
    Training(tmp_path, minutes=None).run()
    resumed = Training(tmp_path, minutes=1)
    assert (resumed.trainer.state.iteration, resumed.budget.spent) == (2 * LENGTH, 0)


def test_without_minutes_nothing_changes(tmp_path: Path) -> None:
    training = Training(tmp_path, minutes=None).run()
    assert budget_of(training.trainer) is None
    assert training.trainer.state.iteration == 2 * LENGTH
    assert training.rates == pytest.approx(
        [0.1 * training.schedule.factor(i) for i in range(1, 17)]
    )
    state = torch.load(tmp_path / "checkpoints" / "checkpoint_16.pt", weights_only=True)
    assert state["position"] == {"iteration": 16}


@pytest.mark.parametrize("minutes", [0.02, 0.1, 0.19])  # in the first update, inside, just below
def test_a_budget_below_an_epoch_is_refused_with_what_it_wants(
    minutes: float, tmp_path: Path
) -> None:
    training = Training(tmp_path, minutes)
    with pytest.raises(
        MedpairError, match=r"wanted at least 0\.2 \(12 s\) for one epoch of 8"
    ) as e:
        training.run()
    assert f"minutes: {minutes}" in str(e.value)
    assert "\n" not in str(e.value)
    assert training.trainer.state.iteration <= 5


def test_a_budget_of_one_epoch_is_enough(tmp_path: Path) -> None:
    assert Training(tmp_path, minutes=0.2).run().trainer.state.iteration == LENGTH


def test_batches_that_are_slow_at_first_do_not_speak_against_a_budget(tmp_path: Path) -> None:
    slow = [0.0] + [5.0] * 6 + [0.0] * 100
    Training(tmp_path / "first", minutes=1, slow_batches=[7.0] * 3 + [0.0] * 100).run()
    training = Training(tmp_path, minutes=1, slow_batches=slow).run()
    assert training.trainer.state.iteration == (60 - 30) / STEP_S


@pytest.mark.parametrize("minutes", [0, -1, math.inf, math.nan])
def test_minutes_that_are_none_are_refused(minutes: float) -> None:
    with pytest.raises(MedpairError, match="wanted a number above 0"):
        Budget(minutes)


def test_progress_is_told_in_seconds(tmp_path: Path) -> None:
    training = Training(tmp_path, minutes=0.5)
    told: list[tuple[str, int, int]] = []
    report_iterations(training.trainer, "train", lambda *step: told.append(step))
    training.run()
    assert told[0] == ("train", 0, 30)
    assert told[2] == ("train", 3, 30)
    assert told[-1] == ("train", 30, 30)


def slow_validation(training: Training, seconds: float) -> Training:
    """Let the validator run at the end of each epoch and take its time."""

    def validate(epoch: int) -> None:
        training.clock.now += seconds
        training.validated.append(epoch)

    training.budget._run = validate
    training.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: training.validator.run(e.state.epoch)
    )
    return training


def test_validations_do_not_move_the_learning_rate_and_leave_time_for_training(
    tmp_path: Path,
) -> None:
    training = slow_validation(Training(tmp_path, minutes=1), 20.0).run()
    assert training.validated == [1, 4]  # once on the way: a second has no time; once at the end
    assert training.trainer.state.iteration == math.ceil((60 - 20) / STEP_S)
    assert training.rates[-1] < 0.02 * 0.1 + training.schedule.final * 0.1
    after_warmup = training.rates[4:]
    assert after_warmup == sorted(after_warmup, reverse=True)


def test_a_validation_longer_than_the_budget_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = slow_validation(Training(tmp_path, minutes=1), 100.0).run()
    assert "a validation of 100 s ended the budget of 60 s" in caplog.text
    assert training.trainer.state.iteration == LENGTH + 1


def test_a_run_killed_in_its_last_validation_still_writes_its_weights(tmp_path: Path) -> None:
    Training(tmp_path, minutes=0.5, every=0.05).run(killed_at=20)
    again = Training(tmp_path, minutes=0.4)
    written: list[int] = []
    again.trainer.add_event_handler(Events.COMPLETED, lambda e: written.append(e.state.iteration))
    again.run()
    assert again.rates == []
    assert written == [again.trainer.state.iteration]


def half_time(folder: Path, budget: float | None, resumed_after: float = 0.0) -> list[int]:
    """Return the iterations at which a call for half of a budget came."""
    training, calls = Training(folder, budget), list[int]()
    once_at(training.trainer, 0.5, lambda engine: calls.append(engine.state.iteration))
    if budget is not None and (found := budget_of(training.trainer)) is not None:
        found.spent = resumed_after
    run_trainer(training.trainer)
    return calls


def test_half_time_comes_once_and_only_with_a_budget(tmp_path: Path) -> None:
    # 30 s of updates of 1.5 s each: 15 s are spent after the tenth
    assert half_time(tmp_path / "a", 0.5) == [10]
    assert half_time(tmp_path / "b", 0.5, resumed_after=20.0) == []
    assert half_time(tmp_path / "c", None) == []
