"""Batches made by Ray actors, on this machine or on a cluster; this process alone writes pairs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

from common.data.pairs import PairBatch
from common.errors import MedpairError
from common.jobs import Stage
from common.running import Running
from common.runs import Logs, Run, Task, through

MOST_DEATHS = 3


class Worker:
    """What an actor does: it opens the stages once, then runs batches through them.

    Args:
        open_stages: opens them, in the actor's process.
        threads: of torch; sums depend on it, so it is that of the process that asks.
        running: exactness.
    """

    def __init__(
        self, open_stages: Callable[[], Mapping[str, Stage]], threads: int, running: Running
    ) -> None:
        torch.set_num_threads(threads)
        self.stages, self.running, self.fitted = open_stages(), running, dict[str, int]()

    def make(self, batch: PairBatch) -> tuple[PairBatch, Logs]:
        """Return the finished batch, and seconds and memory per stage."""
        words: dict[str, Any] = {"exact": self.running.exact, "fitted": self.fitted}
        with self.running.algorithms():
            return through(self.stages, batch, lambda _stage, _done: None, **words)


@dataclass
class RayEngine:
    """Share out the batches of a run among actors.

    A batch whose actor died is given to another one; pairs are written by this process when their
    batch is back, so that each is made exactly once.

    Args:
        open_stages: opens the stages in an actor's process.
        workers: number of actors, >= 1; a GPU each where this machine has one.
        running: exactness.

    Raises:
        MedpairError: if Ray is not installed, or actors keep dying over a batch.
    """

    open_stages: Callable[[], Mapping[str, Stage]]
    workers: int = 2
    running: Running = field(default_factory=Running)
    deaths: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise MedpairError(f"--workers: {self.workers}, wanted >= 1; ask for at least one")
        if find_spec("ray") is None:  # said before a pair set is begun
            raise MedpairError(
                "--engine ray: Ray is not installed; pip install 'medpair[ray]', or --engine local"
            )

    def __call__(self, run: Run, groups: Sequence[int]) -> None:
        """Make all pairs of some groups of volumes; see `common.runs.Engine`."""
        if not groups:
            return
        with _ray() as ray:
            self._share(ray, run, groups)

    def _share(self, ray: Any, run: Run, groups: Sequence[int]) -> None:
        waiting, done = deque(groups), 0
        idle = [self._hire(ray) for _ in range(min(self.workers, len(groups)))]
        busy: dict[Any, tuple[Any, int, Task]] = {}
        run.progress("pairs", 0, len(groups))
        while waiting or busy:
            while waiting and idle:
                group = waiting.popleft()
                task = run.task(group)
                if task is None:
                    done += 1
                    run.progress("pairs", done, len(groups))
                    continue
                worker = idle.pop()
                busy[worker.make.remote(task.batch)] = (worker, group, task)
            if not busy:
                continue
            (ready, *_), _ = ray.wait(list(busy))
            worker, group, task = busy.pop(ready)
            waiting.append(group)  # until it has no task left
            try:
                batch, logs = ray.get(ready)
            except ray.exceptions.RayActorError:
                self._note_death(group)
                idle.append(self._hire(ray))
            except ray.exceptions.RayTaskError as error:
                raise _plain(error) from None
            else:
                idle.append(worker)
                run.keep(task, batch, logs)

    def _hire(self, ray: Any) -> Any:
        actor = ray.remote(Worker).options(num_gpus=int(torch.cuda.is_available()))
        return actor.remote(self.open_stages, torch.get_num_threads(), self.running)

    def _note_death(self, group: int) -> None:
        self.deaths[group] = self.deaths.get(group, 0) + 1
        if self.deaths[group] >= MOST_DEATHS:
            raise MedpairError(
                f"--engine ray: {MOST_DEATHS} workers died over batch {group}; give them more "
                "memory, or fewer --workers, and start again: finished pairs are kept"
            )


@contextmanager
def _ray() -> Iterator[Any]:
    """Yield Ray, started on this machine alone where no cluster is named or running."""
    import ray

    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        elsewhere = "RAY_ADDRESS" in os.environ
        local: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        ray.init(log_to_driver=False, configure_logging=False, **({} if elsewhere else local))
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _plain(error: Any) -> BaseException:
    """Return what a stage raised, out of Ray's wrapping."""
    cause = error.cause if isinstance(getattr(error, "cause", None), BaseException) else error
    return MedpairError(str(cause)) if isinstance(cause, MedpairError) else error
