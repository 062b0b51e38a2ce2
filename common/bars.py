"""Progress on a console: bars, or sparse lines where it is a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from common.console import is_quiet
from common.logfile import log
from common.progress import Progress

_PERIOD_S = 3600.0  # speed is a mean over it; of rich's 30 s, slower steps would show no time left


@contextmanager
def shown(console: Console) -> Iterator[Progress]:
    """Show progress on a console, one bar per task; as a line now and then where it is a file.

    A log file gets such lines in any case; a quiet console shows nothing.

    Args:
        console: where to write, usually standard error.

    Returns:
        A context manager that gives the callback.
    """
    if is_quiet():
        yield _lines(log.info)
    elif console.is_terminal:
        with RichProgress(*_columns(), console=console, speed_estimate_period=_PERIOD_S) as bars:
            yield _both(_lines(log.info), _bars(bars))
    else:
        yield _lines(partial(_tell, console))


def _tell(console: Console, line: str) -> None:
    log.info(line)
    console.print(line, markup=False, highlight=False)


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )


def _both(first: Progress, second: Progress) -> Progress:
    def update(task: str, done: int, total: int) -> None:
        first(task, done, total)
        second(task, done, total)

    return update


def _bars(bars: RichProgress) -> Progress:
    tasks: dict[str, TaskID] = {}

    def update(task: str, done: int, total: int) -> None:
        if task not in tasks:  # what a resumed work had done tells nothing of its speed
            tasks[task] = bars.add_task(task, total=total, completed=done)
        bars.update(tasks[task], completed=done, total=total)

    return update


def _lines(write: Callable[[str], None], every_s: float = 10.0) -> Progress:
    last: dict[str, float] = {}

    def update(task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - last.get(task, -every_s) >= every_s:
            last[task] = now
            write(f"{task}: {done}/{total}")

    return update
