"""What the commands share: where they write, and the options that several of them take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.completion import preset_names
from common.logfile import log

LEFT_OUT = 1

out = Console()
err = Console(stderr=True)

OutDir = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Size: tiny, small, base; default: the bundle's.", autocompletion=preset_names
    ),
]
Weights = Annotated[Path | None, typer.Option(help="What `train` wrote.")]
Seed = Annotated[int, typer.Option(min=0, help="Equal seeds give equal bytes.")]
AllowMismatch = Annotated[
    bool, typer.Option("--allow-mismatch", help="Accept a slice of another body size.")
]

RealPictures = Annotated[
    bool,
    typer.Option(
        "--real-pictures/--no-real-pictures", help="Show slices of real scans in card.html."
    ),
]


@dataclass
class _Habits:
    quiet: bool = False
    kept: str = ""


_habits = _Habits()


def begin(*, quiet: bool = False) -> None:
    """Begin a command.

    Args:
        quiet: `say` keeps its lines back, `end` writes the last one; no progress is shown.
    """
    _habits.quiet, _habits.kept = quiet, ""


def is_quiet() -> bool:
    """Return whether only errors and the last line are to be shown."""
    return _habits.quiet


def say(line: str) -> None:
    """Write a line to standard output, as it is: what was done."""
    log.info(line)
    if _habits.quiet:
        _habits.kept = line
    else:
        _write(line)


def show(line: str) -> None:
    """Write a line to standard output, as it is, also where quiet: what was asked for."""
    log.info(line)
    _write(line)


def end() -> None:
    """Write the last line that was kept back, if there is one."""
    if _habits.kept:
        _write(_habits.kept)


def _write(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def name_left_out(problems: Sequence[str]) -> None:
    """Complain of each pair that a report leaves out; end the command with 1 if there is any."""
    for line in problems:
        complain(line)
    if problems:
        raise typer.Exit(LEFT_OUT)


def complain(line: str) -> None:
    """Write an error line to standard error, as it is."""
    log.error(line)
    err.print(f"error: {line}", markup=False, highlight=False, soft_wrap=True)
