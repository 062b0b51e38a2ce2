"""The command that judges a generated pair set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from common.bars import shown
from common.console import OutDir, Preset, RealPictures, Weights, err, name_left_out, say

# torch and monai take seconds to import: commands import what they need when they run.


def judge(
    real: Annotated[Path, typer.Option(help="Pair set of real scans.")],
    synthetic: Annotated[Path, typer.Option(help="Generated pair set.")],
    out_dir: OutDir,
    preset: Preset = None,
    weights: Weights = None,
    backbones: Annotated[
        Path | None, typer.Option(help="YAML file: weights of RadImageNet, LPIPS and others.")
    ] = None,
    real_pictures: RealPictures = True,
) -> None:
    """Judge generated pairs beside real ones: fidelity, diversity, alignment, masks."""
    from common.judging import judge as run

    with shown(err) as progress:
        folder = run(
            real=real,
            synthetic=synthetic,
            out=out_dir,
            preset=preset,
            weights=weights,
            backbones=backbones,
            real_pictures=real_pictures,
            progress=progress,
        )
    say(f"judge.json in {folder}")
    report = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
    name_left_out(report["problems"])
