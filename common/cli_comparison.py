"""The command that compares trainings on real and synthetic pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from common.bars import shown
from common.console import OutDir, Preset, RealPictures, err, name_left_out, say
from common.errors import MedpairError

# torch and monai take seconds to import: commands import what they need when they run.


def compare(
    real: Annotated[Path, typer.Option(help="Pair set of real scans.")],
    out_dir: OutDir,
    synthetic: Annotated[
        list[str] | None, typer.Option(help="Generated pair set or NAME=FOLDER; again for more.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Pair set of test cases.")] = None,
    target: Annotated[Path | None, typer.Option(help="Real scans that E3 goes on to.")] = None,
    networks: Annotated[
        str | None, typer.Option(help="Of unet2d, unet3d, unetr, swin_unetr; default unet3d.")
    ] = None,
    strategies: Annotated[
        str | None, typer.Option(help="Such as E2-1,E2-4; default E2-1 to E2-5.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="A training each; default 0,1,2.")] = None,
    updates: Annotated[int | None, typer.Option(help="Optimiser updates of a training.")] = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validation over persons.")] = None,
    generator_training: Annotated[
        Path | None, typer.Option(help="What the generators were trained on, to mark persons.")
    ] = None,
    definitions: Annotated[Path | None, typer.Option(help="Another file of strategies.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Further values for train.yaml.")] = None,
    preset: Preset = None,
    real_pictures: RealPictures = True,
) -> None:
    """Train segmenters with and without synthetic pairs and compare them; again: goes on."""
    from common.comparison import compare as run

    with shown(err) as progress:
        folder = run(
            real=real,
            out=out_dir,
            synthetic=synthetic or (),
            test=test,
            target=target,
            networks=networks.split(",") if networks else None,
            strategies=strategies.split(",") if strategies else None,
            seeds=whole_numbers(seeds, "--seeds"),
            updates=updates,
            folds=folds,
            generator_training=generator_training,
            definitions=definitions,
            overlay=overlay,
            preset=preset,
            real_pictures=real_pictures,
            progress=progress,
        )
    say(f"compare.md and compare.json in {folder}")
    report = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    name_left_out(report["problems"])


def whole_numbers(text: str | None, key: str) -> list[int] | None:
    """Read whole numbers joined by commas, such as ``0,1,2``.

    Args:
        text: None for none.
        key: name of the option, for the error message.

    Raises:
        MedpairError: for anything else.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise MedpairError(f"{key}: found '{text}', wanted whole numbers such as 0,1,2")
    return [int(part) for part in parts]
