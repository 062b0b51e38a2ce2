"""The commands that use a trained volume generator: enhance, counterfactual, harmonise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.bars import shown
from common.console import AllowMismatch, OutDir, Preset, Seed, Weights, err, say

# torch and monai take seconds to import: commands import what they need when they run.


def enhance(
    data: Annotated[Path, typer.Option(help="Pair set of real scans.")],
    out_dir: OutDir,
    times: Annotated[int, typer.Option(min=1, help="New images per training mask.")] = 1,
    mask_augmentation: Annotated[
        bool, typer.Option("--mask-augmentation", help="Change the masks too.")
    ] = False,
    informed: Annotated[str, typer.Option(help="cross (another person) or generated.")] = "cross",
    seed: Seed = 0,
    preset: Preset = None,
    weights: Weights = None,
) -> None:
    """Give every training mask new images; the same command again makes only what is missing."""
    from common.uses import enhance as run

    with shown(err) as progress:
        folder = run(
            data=data,
            out=out_dir,
            times=times,
            mask_augmentation=mask_augmentation,
            informed=informed,
            seed=seed,
            preset=preset,
            weights=weights,
            progress=progress,
        )
    say(f"pairs and enhance.json in {folder}")


def counterfactual(
    image: Annotated[Path, typer.Option(help="Scan in raw values.")],
    mask: Annotated[Path, typer.Option(help="Its mask.")],
    edit: Annotated[Path, typer.Option(help="Edited mask, or YAML list of operations.")],
    out_dir: OutDir,
    slice_: Annotated[
        int | None,
        typer.Option("--slice", help="Informed slice of the scan; default: one not edited."),
    ] = None,
    keep_outside: Annotated[
        bool, typer.Option("--keep-outside", help="Keep the scan's voxels outside the edit.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="Pair set of others, for identity.")] = None,
    source: Annotated[str | None, typer.Option(help="Whose label ids the mask carries.")] = None,
    allow_mismatch: AllowMismatch = False,
    seed: Seed = 0,
    preset: Preset = None,
    weights: Weights = None,
) -> None:
    """Make the image of the same patient for an edited mask, and measure the change."""
    from common.uses import counterfactual as run

    with shown(err) as progress:
        folder = run(
            image=image,
            mask=mask,
            edit=edit,
            out=out_dir,
            slice=slice_,
            keep_outside=keep_outside,
            data=data,
            source=source,
            allow_mismatch=allow_mismatch,
            seed=seed,
            preset=preset,
            weights=weights,
            progress=progress,
        )
    say(f"image.nii.gz, mask.nii.gz and report.json in {folder}")


def harmonise(
    data: Annotated[Path, typer.Option(help="Pair set of real scans.")],
    reference: Annotated[str, typer.Option(help="Id of a pair, or an image file.")],
    slice_: Annotated[int, typer.Option("--slice", help="Slice of the reference.")],
    out_dir: OutDir,
    allow_mismatch: AllowMismatch = False,
    seed: Seed = 0,
    preset: Preset = None,
    weights: Weights = None,
) -> None:
    """Make all images of a pair set from one informed slice; unlabelled anatomy is invented."""
    from common.uses import harmonise as run

    with shown(err) as progress:
        folder = run(
            data=data,
            reference=reference,
            slice=slice_,
            out=out_dir,
            allow_mismatch=allow_mismatch,
            seed=seed,
            preset=preset,
            weights=weights,
            progress=progress,
        )
    say(f"pairs and harmonise.json in {folder}")
