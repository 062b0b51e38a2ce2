"""The commands that run pipelines and bundles: train, generate, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.bars import shown
from common.bundles import pipeline_file
from common.completion import bundle_names, pipeline_names
from common.console import OutDir, Preset, Weights, err, say

# torch and monai take seconds to import: commands import what they need when they run.


def train(
    pipeline: Annotated[
        str,
        typer.Argument(help="Such as medgen3d.", autocompletion=pipeline_names),
    ],
    data: Annotated[Path, typer.Option(help="Pair set of real scans.")],
    out_dir: OutDir,
    preset: Preset = None,
    max_iterations: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Wall-clock budget of each stage; the schedule fits it.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="For GPUs: compiled, fused, scans on the device.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Continue what --out already holds.")] = True,
    stages: Annotated[str | None, typer.Option(help="Only these, as 'mask,image'.")] = None,
) -> None:
    """Train the stages of a pipeline in order; the same command again continues."""
    pipeline_file(pipeline)  # a wrong name is known before torch is loaded
    from common.pipeline import train as run

    with shown(err) as progress:
        run(
            pipeline,
            data=data,
            out=out_dir,
            preset=preset,
            max_iterations=max_iterations,
            minutes=minutes,
            fast=fast,
            resume=resume,
            stages=stages.split(",") if stages else None,
            progress=progress,
        )
    say(f"weights in {out_dir}")


def generate(
    pipeline: Annotated[
        str,
        typer.Argument(help="Such as medgen3d.", autocompletion=pipeline_names),
    ],
    out_dir: OutDir,
    num: Annotated[int, typer.Option("--n", "--num", help="How many pairs.")] = 1,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal bytes.")] = 0,
    preset: Preset = None,
    depth: Annotated[int | None, typer.Option(help="Slices D of each volume.")] = None,
    start: Annotated[int | None, typer.Option(help="First slice to be made, 0..D-1.")] = None,
    weights: Weights = None,
    stages: Annotated[str | None, typer.Option(help="Only these, as 'mask,image'.")] = None,
    data: Annotated[Path | None, typer.Option(help="Pair set to start from.")] = None,
    gate: Annotated[bool, typer.Option(help="Refuse pairs unlike any real scan.")] = True,
    engine: Annotated[str, typer.Option(help="local, ray, or slurm-array: a script.")] = "local",
    workers: Annotated[int, typer.Option(help="Processes of --engine ray.")] = 2,
    num_parts: Annotated[int, typer.Option(help="Processes that share the job.")] = 1,
    part_id: Annotated[int | None, typer.Option(help="Which of them, from 0.")] = None,
    batch_volumes: Annotated[int | None, typer.Option(help="Volumes made side by side.")] = None,
    memory_gib: Annotated[
        float | None, typer.Option(help="Choose them by a memory budget, GiB.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile; pays for long runs.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Equal bytes also on a GPU; slower there.")
    ] = False,
) -> None:
    """Generate pairs; the same command again makes only what is missing."""
    pipeline_file(pipeline)  # a wrong name is known before torch is loaded
    from common.pipeline import generate as run

    with shown(err) as progress:
        folder = run(
            pipeline,
            num=num,
            seed=seed,
            out=out_dir,
            preset=preset,
            depth=depth,
            start=start,
            weights=weights,
            stages=stages.split(",") if stages else None,
            data=data,
            gate=gate,
            engine=engine,
            workers=workers,
            num_parts=num_parts,
            part_id=part_id,
            batch_volumes=batch_volumes,
            memory_gib=memory_gib,
            compile=compiled,
            exact=exact,
            progress=progress,
        )
    if engine == "slurm-array":
        say(f"sbatch {folder}")
    elif num_parts > 1:
        say(f"part {part_id} of {num_parts} done in {folder}")
    else:
        say(f"{num} pairs in {folder}")


def evaluate(
    bundle: Annotated[
        str,
        typer.Argument(
            help="mcdpm_mask, vid2vid_image, sdm_refiner, gem3d_volume, ...",
            autocompletion=bundle_names,
        ),
    ],
    data: Annotated[Path, typer.Option(help="Pair set of real scans.")],
    out_dir: OutDir,
    synthetic: Annotated[Path | None, typer.Option(help="Generated pair set, for masks.")] = None,
    weights: Weights = None,
    preset: Preset = None,
) -> None:
    """Measure generated masks, or images made for real masks, against real scans."""
    from common.evaluation import evaluate as run

    with shown(err) as progress:
        folder = run(
            bundle,
            data=data,
            synthetic=synthetic,
            out=out_dir,
            weights=weights,
            preset=preset,
            progress=progress,
        )
    say(f"report in {folder}")
