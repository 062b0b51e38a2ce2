"""A wall-clock budget of a training: what is spent, over resumes as well, and when it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events

from common.engines.distributed import from_first
from common.errors import MedpairError

ENDLESS = 10**9
"""Epochs of a training that its budget ends."""
PROBE = 5
"""Updates from which the length of an epoch is estimated."""

log = logging.getLogger(__name__)


class Budget:
    """End a training when its minutes are spent; without minutes nothing changes.

    The clock runs from the first update to the last, validations and checkpoints included; opening
    the data and the last validation come on top. A validation on the way that would not leave time
    for training is left out. A checkpoint carries what was spent, so a killed run goes on where it
    was. Of several processes, the first one's clock counts for all.

    Args:
        minutes: the budget; it takes the place of the number of iterations. None for none.
        validator: evaluator that runs once more when the budget is spent; None for none.
        clock: seconds, never falling.

    Raises:
        MedpairError: for minutes that are not above 0.
    """

    def __init__(
        self,
        minutes: float | None,
        validator: Engine | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if minutes is not None and not 0 < minutes < float("inf"):
            raise MedpairError(f"minutes: {minutes}, wanted a number above 0, or none")
        self.minutes, self.validator, self.clock = minutes, validator, clock
        self.seconds = 60.0 * (minutes or 0.0)
        self.spent = 0.0  # seconds, as of the last finished update
        self.validating = 0.0  # seconds of them that validations took
        self._longest, self._validated = 0.0, -1  # validation; iteration after the last one
        self._before, self._first, self._whole = 0.0, 0.0, False
        self._asked = self._waited = 0.0  # when a batch was asked for, seconds waited for it
        self._shortest = float("inf")  # update, in seconds

    @property
    def fraction(self) -> float:
        """The share of the training's time that is spent, 0..1; validations do not count."""
        if self.is_spent:
            return 1.0
        return max(0.0, self.spent - self.validating) / (self.seconds - self.validating)

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return self.spent >= self.seconds

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, before what writes its checkpoints."""
        if self.minutes is None:
            return
        engine.state.budget = self
        engine.state.max_epochs = ENDLESS
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._get)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)
        engine.add_event_handler(Events.TERMINATE, self._validate)
        if self.validator is not None:
            self._guard(engine, self.validator)

    def _guard(self, trainer: Engine, validator: Engine) -> None:
        """Time the validations on the way, and leave out those that training has no time for."""
        self._run = validator.run

        def guarded(*words: Any, **options: Any) -> Any:
            began = self.clock()
            left = from_first(self.seconds - (began - self._before))
            if left < 2 * self._longest:
                return validator.state
            result = self._run(*words, **options)
            took = from_first(self.clock() - began)
            self.spent += took
            self.validating += took
            self._longest = max(self._longest, took)
            self._validated = trainer.state.iteration
            if took > left:
                log.warning(
                    "minutes: a validation of %.0f s ended the budget of %.0f s with the learning "
                    "rate still high; give more minutes, or validate less often",
                    took,
                    self.seconds,
                )
            return result

        validator.run = guarded

    def every(self, minutes: float) -> Callable[[Engine, int], bool]:
        """Return an event filter that passes when so many minutes went by since it last did."""
        last = self.spent

        def due(_engine: Engine, _event: int) -> bool:
            nonlocal last
            passed = self.spent - last >= 60 * minutes
            last = self.spent if passed else last
            return passed

        return due

    def _start(self, engine: Engine) -> None:
        self._before = self.clock() - self.spent
        self._whole = engine.state.iteration == 0  # a resumed run was found long enough before

    def _ask(self) -> None:
        self._asked = self.clock()

    def _get(self) -> None:
        self._waited = self.clock() - self._asked

    def _look(self, engine: Engine) -> None:
        done, last = engine.state.iteration, self.spent
        probing = self._whole and done <= PROBE
        if probing and torch.cuda.is_available():
            torch.cuda.synchronize()  # the estimate must not time the queue
        self.spent = from_first(self.clock() - self._before)
        if probing:
            self._probe(done, self.spent - last, engine.state.epoch_length)
        if self.is_spent:
            engine.terminate()

    def _probe(self, done: int, seconds: float, epoch: int) -> None:
        """Refuse a budget that does not last for an epoch, as soon as that is known.

        The shortest update counts, without its wait for a batch: the first updates may compile,
        and the first batches make what later ones keep.
        """
        if done == 1:
            self._first = seconds
        self._shortest = min(self._shortest, seconds - from_first(self._waited))
        if done < PROBE and not self.is_spent:
            return
        needed = self._first + self._shortest * (epoch - 1)
        if needed > self.seconds and done < epoch:
            raise MedpairError(
                f"minutes: {self.minutes:.3g} for this training, wanted at least "
                f"{needed / 60:.3g} ({needed:.0f} s) for one epoch of {epoch} iterations at "
                f"{self._shortest:.3g} s each; give more minutes, a smaller preset or a faster "
                "device"
            )

    def _validate(self, engine: Engine) -> None:
        if self.validator is not None and self._validated != engine.state.iteration:
            self._run(engine.state.epoch)


def budget_of(engine: Engine) -> Budget | None:
    """Return the budget that a trainer was given, None where it has none."""
    found = getattr(engine.state, "budget", None)
    return found if isinstance(found, Budget) else None


def once_at(
    engine: Engine,
    share: float,
    call: Callable[[Engine], None],
    done: Callable[[float], bool] = bool,
) -> None:
    """Call something once in a training with a budget: when a share of it is spent.

    Args:
        engine: the trainer.
        share: of the training's time, above 0, below 1.
        call: gets the trainer after an update.
        done: of a budget's minutes whether that was done for it; asked where a training goes on
            from a checkpoint of a later time, of this budget or of a shorter one.
    """
    passed = True

    def is_past() -> bool:
        budget = budget_of(engine)
        return budget is None or budget.fraction >= share

    def start() -> None:
        nonlocal passed
        budget = budget_of(engine)
        passed = budget is None or (is_past() and done(budget.minutes or 0.0))

    def look(engine: Engine) -> None:
        nonlocal passed
        # not before the budget may still be refused
        if not passed and engine.state.iteration > PROBE and is_past():
            passed = True
            call(engine)

    engine.add_event_handler(Events.STARTED, start)
    engine.add_event_handler(Events.ITERATION_COMPLETED, look)
