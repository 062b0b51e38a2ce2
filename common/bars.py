"""Progress on a console: bars, or sparse lines where it is a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from common.progress import Progress


@contextmanager
def shown(console: Console) -> Iterator[Progress]:
    """Show progress on a console, one bar per task; as a line now and then where it is a file.

    Args:
        console: where to write, usually standard error.

    Returns:
        A context manager that gives the callback.
    """
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with RichProgress(*columns, console=console) as bars:
        yield _bars(bars)


def _bars(bars: RichProgress) -> Progress:
    tasks: dict[str, TaskID] = {}

    def update(task: str, done: int, total: int) -> None:
        if task not in tasks:
            tasks[task] = bars.add_task(task, total=total)
        bars.update(tasks[task], completed=done, total=total)

    return update


def _lines(console: Console, every_s: float = 10.0) -> Progress:
    last: dict[str, float] = {}

    def update(task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - last.get(task, -every_s) >= every_s:
            last[task] = now
            console.print(f"{task}: {done}/{total}", markup=False, highlight=False)

    return update
