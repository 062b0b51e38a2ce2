"""What the commands share: where they write, and the options that several of them take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

LEFT_OUT = 1

out = Console()
err = Console(stderr=True)

OutDir = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Preset = Annotated[str | None, typer.Option(help="Size: tiny, small, base; default: the bundle's.")]
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


def say(line: str) -> None:
    """Write a line to standard output, as it is."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def name_left_out(problems: Sequence[str]) -> None:
    """Complain of each pair that a report leaves out; end the command with 1 if there is any."""
    for line in problems:
        complain(line)
    if problems:
        raise typer.Exit(LEFT_OUT)


def complain(line: str) -> None:
    """Write an error line to standard error, as it is."""
    err.print(f"error: {line}", markup=False, highlight=False, soft_wrap=True)
