"""Ignite handlers that every trainer of the project uses."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers.tqdm_logger import ProgressBar
from ignite.metrics import PSNR, Loss
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch import Tensor, nn

from common.engines.batches import IterationBatches
from common.engines.budget import budget_of
from common.errors import MedpairError
from common.io.atomic import append_jsonl
from common.progress import Progress


def scalar_losses(output: dict[str, Any]) -> dict[str, float]:
    """Return the scalar entries of an engine's output ("loss", "g_loss", ...) as floats."""
    return {
        str(getattr(key, "value", key)): value.item() if isinstance(value, Tensor) else value
        for key, value in output.items()
        if isinstance(value, float) or (isinstance(value, Tensor) and value.ndim == 0)
    }


class SeedIterations:
    """Tie all random draws of an iteration to (seed, iteration), also after a resume.

    Args:
        batches: the trainer's data; its counter is set when a run starts or resumes.
        seed: the run's seed, also for dropout.
    """

    def __init__(self, batches: IterationBatches, seed: int) -> None:
        self.batches, self.seed = batches, seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._align)
        engine.add_event_handler(Events.ITERATION_STARTED, self._seed)

    def _align(self, engine: Engine) -> None:
        self.batches.iteration = engine.state.iteration

    def _seed(self, engine: Engine) -> None:
        torch.manual_seed(self.seed * 1_000_003 + engine.state.iteration)


WARMUP_SHARE = 0.05
"""Share of a budget after which warm-up ends at the latest."""


class WarmupCosine:
    """Linear warm-up, then a cosine down to a share of the learning rate.

    Where the trainer has a budget (`common.engines.budget`), the cosine follows the share of it
    that is spent, and the warm-up ends after a twentieth of it at the latest.

    Args:
        optimizer: its groups' initial learning rates are the peaks.
        max_iterations: length of the whole schedule; None takes the trainer's.
        warmup: iterations of warm-up.
        final: last learning rate over the peak, 0..1.

    Source: Loshchilov and Hutter 2017 (1608.03983), with warm-up.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_iterations: int | None = None,
        warmup: int = 200,
        final: float = 0.02,
    ) -> None:
        self.optimizer, self.max_iterations = optimizer, max_iterations
        self.warmup, self.final = max(1, warmup), final
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]

    def factor(self, iteration: int) -> float:
        """Return the learning rate over its peak before iteration number ``iteration`` >= 1."""
        assert self.max_iterations is not None  # the trainer's, from its first iteration on
        done = min(1.0, iteration / max(1, self.max_iterations))
        return min(1.0, iteration / self.warmup) * self.cosine(done)

    def factor_in_budget(self, iteration: int, done: float) -> float:
        """Return it where a share ``done`` of a budget is spent, 0..1."""
        warm = max(iteration / self.warmup, done / WARMUP_SHARE)
        return min(1.0, warm) * self.cosine(done)

    def cosine(self, done: float) -> float:
        """Return the cosine from 1 to ``final`` at a share ``done`` of the training, 0..1."""
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._set)

    def _set(self, engine: Engine) -> None:
        if self.max_iterations is None:
            self.max_iterations = engine.state.max_epochs * engine.state.epoch_length
        budget, iteration = budget_of(engine), engine.state.iteration
        if budget is None:
            factor = self.factor(iteration)
        else:
            factor = self.factor_in_budget(iteration, budget.fraction)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor


class ClipGradients:
    """Limit the gradient norm between backward and optimiser step."""

    def __init__(self, network: nn.Module, max_norm: float = 1.0) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class StopOnNaN:
    """Stop the training with a clear error when a loss is NaN or infinite.

    Args:
        every: iterations between two looks; each one waits for the device.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._look)

    def _look(self, engine: Engine) -> None:
        bad = {k: v for k, v in scalar_losses(engine.state.output).items() if not math.isfinite(v)}
        if bad:
            raise MedpairError(
                f"iteration {engine.state.iteration}: {bad}, wanted finite losses; resume from the "
                "last checkpoint with a smaller learning rate"
            )


class LossLog:
    """Average the losses, write a line per ``every`` iterations and show a progress bar.

    Args:
        output_dir: gets ``train_log.jsonl`` (iteration, mean losses, learning rate, seconds).
        optimizer: whose learning rate is written.
        every: iterations per line.
        progress: show the bar.
    """

    def __init__(
        self,
        output_dir: str,
        optimizer: torch.optim.Optimizer,
        every: int = 50,
        progress: bool = True,
    ) -> None:
        self.path = Path(output_dir) / "train_log.jsonl"
        self.optimizer, self.every = optimizer, every
        self.bar = ProgressBar(persist=True, desc="training") if progress else None
        self.sums: dict[str, Tensor | float] = {}
        self.count, self.began = 0, time.perf_counter()

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._write)
        if self.bar is not None:
            self.bar.attach(engine, event_name=Events.ITERATION_COMPLETED(every=self.every))

    def _start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.began = time.perf_counter()

    def _add(self, engine: Engine) -> None:
        # summed on the device: reading a value waits for it
        for key, value in engine.state.output.items():
            if isinstance(value, float) or (isinstance(value, Tensor) and value.ndim == 0):
                name = str(getattr(key, "value", key))
                value = value.detach() if isinstance(value, Tensor) else value
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def _write(self, engine: Engine) -> None:
        means = {key: round(float(total) / self.count, 6) for key, total in self.sums.items()}
        record = {
            "iteration": engine.state.iteration,
            **means,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(time.perf_counter() - self.began, 2),
        }
        append_jsonl(self.path, record)
        self.sums, self.count = {}, 0


def report_iterations(engine: Engine, task: str, progress: Progress) -> None:
    """Say now and after each iteration how far a trainer or evaluator is.

    Args:
        engine: one that knows its epochs and their length before it runs, as MONAI's do.
        task: its name.
        progress: called with (task, done, total), in iterations, or in seconds where a budget
            ends the trainer; resumed ones count as done.
    """

    def tell() -> None:
        state, budget = engine.state, budget_of(engine)
        if budget is None:
            progress(task, state.iteration, state.max_epochs * state.epoch_length)
        else:
            total = math.ceil(budget.seconds)
            progress(task, min(int(budget.spent), total) if not budget.is_spent else total, total)

    tell()
    engine.add_event_handler(Events.ITERATION_COMPLETED, tell)


def loss_metric(loss: nn.Module) -> Loss:
    """Return ignite's metric that averages ``loss`` over the batches of an evaluator."""
    return Loss(loss, output_transform=_prediction_and_label, batch_size=len)


def psnr_metric(data_range: float) -> PSNR:
    """Return ignite's peak signal-to-noise ratio (dB), mean over the samples of an evaluator.

    Args:
        data_range: distance of the largest from the smallest possible value.
    """
    return PSNR(data_range, output_transform=_prediction_and_label)


def _prediction_and_label(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return output[CommonKeys.PRED], output[CommonKeys.LABEL]


def lower_is_better(current: float, previous: float) -> bool:
    """Return whether a new value of an error measure is an improvement."""
    return current < previous


class MetricLog:
    """Append an evaluator's metrics to ``val_log.jsonl`` after every validation.

    Args:
        output_dir: folder of the log.
        batches: the trainer's data, which counts its iterations.
    """

    def __init__(self, output_dir: str, batches: IterationBatches) -> None:
        self.path, self.batches = Path(output_dir) / "val_log.jsonl", batches

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        metrics = {key: float(value) for key, value in engine.state.metrics.items()}
        append_jsonl(self.path, {"iteration": self.batches.iteration, **metrics})
