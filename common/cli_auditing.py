"""The command that audits a generated pair set for copies of training scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from common.bars import shown
from common.console import OutDir, RealPictures, err, name_left_out, say
from common.errors import MedpairError

# torch and monai take seconds to import: commands import what they need when they run.


def audit(
    pairset: Annotated[Path, typer.Argument(help="Generated pair set.")],
    out_dir: OutDir,
    real: Annotated[
        Path | None, typer.Option(help="Pair set: its training split was seen, the rest was not.")
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="Instead of --real: pair set that was seen.")
    ] = None,
    heldout: Annotated[
        Path | None, typer.Option(help="Pair set of others; default: the validation split.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Delete copies from the pair set.")] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Move copies into its folder quarantine.")
    ] = False,
    real_pictures: RealPictures = True,
) -> None:
    """Find generated pairs that copy a training scan, and mark the pair set as audited."""
    from common.auditing import audit as run

    if drop and quarantine:
        raise MedpairError("--drop and --quarantine: both given, wanted one; leave one out")
    with shown(err) as progress:
        folder = run(
            pairset,
            out=out_dir,
            real=real,
            training=training,
            heldout=heldout,
            action="drop" if drop else "quarantine" if quarantine else None,
            real_pictures=real_pictures,
            progress=progress,
        )
    report = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    say(
        f"copies: {report['n_copies']} of {report['n']} pairs, of {report['n_mem']} training "
        f"scans; {len(report.get('removed', ()))} taken out; audit.json in {folder}"
    )
    name_left_out(report["problems"])
