"""The command that writes the report of a pair set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.bars import shown
from common.console import err, say

# torch and monai take seconds to import: commands import what they need when they run.


def report(
    pairset: Annotated[Path, typer.Argument(help="Pair set.")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; default: the pair set's.")
    ] = None,
) -> None:
    """Look at a pair set in a browser: write report.html with a viewer and facts of each pair."""
    from common.report.page import write_report

    with shown(err) as progress:
        page = write_report(pairset, out_dir, progress)
    say(str(page))
