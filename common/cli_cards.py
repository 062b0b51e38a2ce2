"""The command that writes the evaluation card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from common.bars import shown
from common.console import OutDir, RealPictures, err, name_left_out, say
from common.errors import MedpairError

# torch and monai take seconds to import: commands import what they need when they run.


def card(
    out_dir: OutDir,
    reports: Annotated[
        Path | None, typer.Argument(help="Folder with judge.json, audit.json or compare.json.")
    ] = None,
    judge: Annotated[Path | None, typer.Option(help="Report of medpair judge.")] = None,
    audit: Annotated[Path | None, typer.Option(help="Report of medpair audit.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Report of medpair compare.")] = None,
    real: Annotated[Path | None, typer.Option(help="Pair set of real scans, to show.")] = None,
    synthetic: Annotated[Path | None, typer.Option(help="Generated pair set, to show.")] = None,
    real_pictures: RealPictures = True,
    headline: Annotated[
        str | None, typer.Option(help="Strategy that the answer is of; default E2-4.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Such as fid_ratio=1.5; again for more.")
    ] = None,
) -> None:
    """Put all reports of a generated pair set on one page: card.html and card.json."""
    from common.cards import card as run

    with shown(err) as progress:
        folder = run(
            reports,
            out=out_dir,
            judge=judge,
            audit=audit,
            compare=compare,
            real=real,
            synthetic=synthetic,
            real_pictures=real_pictures,
            headline=headline,
            targets=named_numbers(target or (), "--target") or None,
            progress=progress,
        )
    content = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    say(" ".join(content["answer"]))
    say(f"card.html and card.json in {folder}")
    name_left_out(content["problems"])


def named_numbers(texts: Sequence[str], key: str) -> dict[str, float]:
    """Read words such as ``fid_ratio=1.5``.

    Args:
        texts: one per number.
        key: name of the option, for the error message.

    Raises:
        MedpairError: for anything else.
    """
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError as error:
            raise MedpairError(
                f"{key}: found '{text}', wanted NAME=NUMBER such as fid_ratio=1.5"
            ) from error
    return found
