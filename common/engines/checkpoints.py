"""Exact checkpoints: network, EMA, optimiser and counter; nothing else is needed to resume."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver, EMAHandler
from torch import nn

from common.engines.budget import budget_of
from common.engines.distributed import is_first
from common.errors import MedpairError
from common.io.atomic import write_json

COMPLETED = "completed.json"
"""Beside the checkpoints: the iteration at which a run ended with all that follows."""


class Ema:
    """Exponential moving average of the weights with a warm-up.

    Args:
        network: the trained network.
        decay: weight of the old average, in [0, 1); 0 keeps none: the average is the network.
        warmup: iterations over which the decay rises from 0.5.

    Source: ignite's EMAHandler, whose momentum is 1 - decay.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, warmup: int = 500) -> None:
        self.decay, self.warmup = decay, max(2, warmup)
        self.trained = network
        self.handler = EMAHandler(network, momentum=1 - decay) if decay else None

    @property
    def network(self) -> nn.Module:
        """The averaged network."""
        return self.trained if self.handler is None else self.handler.ema_model

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.handler is None:
            return
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._warm_up)
        self.handler.attach(engine, event=Events.ITERATION_COMPLETED)

    def _warm_up(self, engine: Engine) -> None:
        # by the trainer's iteration: ignite's own warm-up would begin again after a resume
        last = 1 - self.decay
        share = (engine.state.iteration - 1) / (self.warmup - 1)
        engine.state.ema_momentum = max(last, 0.5 + (last - 0.5) * share)


def keep_average(ema: Ema) -> Ema:
    """Return the average itself: MONAI wants a ``_target_`` in every entry of a handler list."""
    return ema


class Position:
    """How far a trainer is, as a checkpoint entry; without epochs, so a run can be extended."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def state_dict(self) -> dict[str, float]:
        """Return the number of finished iterations and, with a budget, the seconds spent."""
        budget = budget_of(self.engine)
        spent = {}
        if budget is not None:
            spent = {"seconds": budget.spent, "validating": budget.validating}
        return {"iteration": int(self.engine.state.iteration), **spent}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Set the trainer to a number of finished iterations and its budget to what was spent."""
        length = self.engine.state.epoch_length
        self.engine.state.iteration = int(state["iteration"])
        self.engine.state.epoch = int(state["iteration"]) // length
        budget = budget_of(self.engine)
        if budget is not None:
            budget.spent = float(state.get("seconds", 0.0))
            budget.validating = float(state.get("validating", 0.0))


def run_trainer(trainer: Engine) -> None:
    """Run a trainer to its end.

    One that a checkpoint left there makes no further update; where it was killed before what
    follows the last one, such as the writing of its weights, that is done.
    """
    budget, folder = budget_of(trainer), getattr(trainer.state, "checkpoints", None)
    last = trainer.state.max_epochs * trainer.state.epoch_length
    if trainer.state.iteration < last and not (budget is not None and budget.is_spent):
        trainer.run()
    elif folder is not None and _completed(folder) != trainer.state.iteration:
        trainer.fire_event(Events.COMPLETED)
    else:
        return
    if folder is not None and is_first():
        write_json(folder / COMPLETED, {"iteration": trainer.state.iteration})


def _completed(folder: Path) -> int | None:
    """Return the iteration at which a run ended with all that follows, None where none did."""
    path = folder / COMPLETED
    return (
        int(json.loads(path.read_text(encoding="utf-8"))["iteration"]) if path.is_file() else None
    )


class Resume:
    """Save checkpoints and, when the output folder holds one, start from the newest.

    Args:
        output_dir: folder of ``checkpoints/checkpoint_<iteration>.pt``; writes are atomic.
        objects: what is saved, by name (networks, optimisers, EMA networks).
        every: iterations between two checkpoints; one more is written at the end.
        resume: False starts anew.
        minutes: between two checkpoints of a trainer with a budget, instead of ``every``.
    """

    def __init__(
        self,
        output_dir: str,
        objects: Mapping[str, Any],
        every: int = 500,
        resume: bool = True,
        minutes: float = 5.0,
    ) -> None:
        self.folder = Path(output_dir) / "checkpoints"
        self.objects, self.every, self.resume = dict(objects), every, resume
        self.minutes = minutes

    def attach(self, engine: Engine) -> None:
        """Register with a trainer and load the newest checkpoint."""
        engine.state.checkpoints = self.folder
        everything = self.objects | {"position": Position(engine)}
        saver = Checkpoint(
            everything,
            DiskSaver(str(self.folder), atomic=True, create_dir=True, require_empty=False),
            n_saved=2,
            global_step_transform=lambda e, _: e.state.iteration,
        )
        newest = latest_checkpoint(self.folder) if self.resume else None
        if newest is not None:
            load_checkpoint(newest, everything)
        self._loaded = None if newest is None else int(engine.state.iteration)
        budget = budget_of(engine)
        if budget is None:
            now_and_then = Events.ITERATION_COMPLETED(every=self.every)
        else:
            due = budget.every(self.minutes)
            now_and_then = Events.ITERATION_COMPLETED(event_filter=due)
        engine.add_event_handler(now_and_then, saver)
        engine.add_event_handler(Events.COMPLETED, self._save_once, saver)

    def _save_once(self, engine: Engine, saver: Checkpoint) -> None:
        if engine.state.iteration != self._loaded:  # that file is the state
            saver(engine)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint with the highest iteration in ``folder``, None if there is none."""
    found = {
        int(match.group(1)): path
        for path in folder.glob("checkpoint_*.pt")
        if (match := re.fullmatch(r"checkpoint_(\d+)\.pt", path.name))
    }
    return found[max(found)] if found else None


def load_checkpoint(path: Path, objects: Mapping[str, Any]) -> None:
    """Load every object of a checkpoint.

    Raises:
        MedpairError: if the file is damaged or belongs to another network.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        Checkpoint.load_objects(to_load=dict(objects), checkpoint=state)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise MedpairError(
            f"{path.name}: cannot be resumed ({reason}); delete it or choose another output_dir"
        ) from error
