"""The command `medpair`: each subcommand checks its words and calls one Python function."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from common.bars import shown
from common.cli_auditing import add_auditing
from common.cli_cards import add_cards
from common.cli_comparison import add_comparison
from common.cli_import import add_import
from common.cli_judging import add_judging
from common.cli_pack import add_pack
from common.cli_report import add_report
from common.cli_uses import add_uses
from common.console import OutDir, Preset, Weights, complain, err, say
from common.errors import IncompleteError, MedpairError

# torch and monai take seconds to import: subcommands import what they need when they run.

INCOMPLETE = 1
USER_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    help="Paired 3D medical images and masks: prepare, train, generate, evaluate.",
    add_completion=False,
    rich_markup_mode="rich",
)


def numbers(text: str, *, key: str, wanted: str) -> tuple[float, ...]:
    """Read numbers joined by ``x`` or ``,``, as in ``48x40x40``.

    Args:
        text: one or three positive numbers.
        key: name of the option, for the error message.
        wanted: an example of a right value, for the error message.

    Returns:
        One or three numbers.

    Raises:
        MedpairError: anything else than one or three positive numbers.
    """
    try:
        values = tuple(float(part) for part in text.replace(",", "x").split("x"))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(0 < value < float("inf") for value in values):
        raise MedpairError(f"{key}: found '{text}', wanted {wanted}: give 1 or 3 positive numbers")
    return values


def parse_size(text: str | None) -> tuple[int, int, int] | None:
    """Read a size D x H x W in voxels such as ``48x40x40``."""
    if text is None:
        return None
    values = numbers(text, key="--size", wanted="DxHxW such as 48x40x40")
    if len(values) != 3 or any(value != int(value) for value in values):
        raise MedpairError(f"--size: found '{text}', wanted DxHxW such as 48x40x40 in whole voxels")
    return int(values[0]), int(values[1]), int(values[2])


def parse_in_plane(text: str | None) -> tuple[int, int] | None:
    """Read a slice size H x W in pixels such as ``512x512``."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise MedpairError(f"--in-plane: found '{text}', wanted HxW such as 512x512 in pixels")
    return int(parts[0]), int(parts[1])


def parse_spacing(text: str | None) -> tuple[float, float, float] | None:
    """Read a spacing in mm, such as ``4`` or D x H x W ``4x2x2``."""
    if text is None:
        return None
    values = numbers(text, key="--spacing", wanted="mm such as 4 or DxHxW 4x2x2")
    return (values * 3)[:3] if len(values) == 1 else values  # type: ignore[return-value]


@app.command()
def prepare(
    images: Annotated[Path, typer.Option(help="Folder of images (.nii, .nii.gz, .mgz).")],
    labels: Annotated[Path, typer.Option(help="Folder of masks; may be the same folder.")],
    schema: Annotated[str, typer.Option(help="Label schema: a name or a YAML file.")],
    out_dir: OutDir,
    spacing: Annotated[str | None, typer.Option(help="mm: 4, or DxHxW as 4x2x2.")] = None,
    size: Annotated[str | None, typer.Option(help="Voxels DxHxW, such as 48x40x40.")] = None,
    crop: Annotated[str | None, typer.Option(help="'nonzero' crops to the image.")] = None,
    channel: Annotated[str | None, typer.Option(help="Name or number, for 4D files.")] = None,
    persons: Annotated[Path | None, typer.Option(help="CSV with id,person[,split].")] = None,
    source: Annotated[str | None, typer.Option(help="Whose label ids the masks carry.")] = None,
    holdout: Annotated[float, typer.Option(help="Share of persons kept back.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Draws the persons that are kept back.")] = 0,
    image_pattern: Annotated[str | None, typer.Option(help="Such as '{id}_T1.nii.gz'.")] = None,
    label_pattern: Annotated[str | None, typer.Option(help="Such as '{id}_labels.nii.gz'.")] = None,
    in_plane: Annotated[str | None, typer.Option(help="Resize slices to HxW pixels.")] = None,
) -> None:
    """Turn folders of scans and masks into a pair set."""
    from common.data.prepare import prepare as run

    with shown(err) as progress:
        pairs = run(
            images,
            labels,
            schema,
            out_dir,
            spacing=parse_spacing(spacing),
            size=parse_size(size),
            crop=crop,
            channel=int(channel) if channel and channel.isdigit() else channel,
            persons=persons,
            source=source,
            holdout=holdout,
            seed=seed,
            image_pattern=image_pattern,
            label_pattern=label_pattern,
            in_plane=parse_in_plane(in_plane),
            progress=progress,
        )
    say(f"{len(pairs.ids())} pairs in {out_dir}")


@app.command()
def train(
    pipeline: Annotated[str, typer.Argument(help="Such as medgen3d.")],
    data: Annotated[Path, typer.Option(help="Pair set of real scans.")],
    out_dir: OutDir,
    preset: Preset = None,
    max_iterations: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue what --out already holds.")] = True,
    stages: Annotated[str | None, typer.Option(help="Only these, as 'mask,image'.")] = None,
) -> None:
    """Train the stages of a pipeline in order; the same command again continues."""
    from common.pipeline import train as run

    with shown(err) as progress:
        run(
            pipeline,
            data=data,
            out=out_dir,
            preset=preset,
            max_iterations=max_iterations,
            resume=resume,
            stages=stages.split(",") if stages else None,
            progress=progress,
        )
    say(f"weights in {out_dir}")


@app.command()
def generate(
    pipeline: Annotated[str, typer.Argument(help="Such as medgen3d.")],
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
) -> None:
    """Generate pairs; the same command again makes only what is missing."""
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
            progress=progress,
        )
    if engine == "slurm-array":
        say(f"sbatch {folder}")
    elif num_parts > 1:
        say(f"part {part_id} of {num_parts} done in {folder}")
    else:
        say(f"{num} pairs in {folder}")


@app.command()
def evaluate(
    bundle: Annotated[
        str, typer.Argument(help="mcdpm_mask, vid2vid_image, sdm_refiner, gem3d_volume, ...")
    ],
    data: Annotated[Path, typer.Option(help="Pair set of real scans.")],
    out_dir: OutDir,
    synthetic: Annotated[Path | None, typer.Option(help="Generated pair set, for masks.")] = None,
    weights: Weights = None,
    preset: Preset = None,
) -> None:
    """Measure generated masks, or images made for real masks, against real scans."""
    from common.pipeline import evaluate as run

    folder = run(
        bundle, data=data, synthetic=synthetic, out=out_dir, weights=weights, preset=preset
    )
    say(f"report in {folder}")


@app.command()
def export(
    pairset: Annotated[Path, typer.Argument(help="Pair set.")],
    out_dir: OutDir,
    pair: Annotated[str | None, typer.Argument(metavar="[ID]", help="Which pair; native.")] = None,
    form: Annotated[str, typer.Option("--format", help="native or nnunet.")] = "native",
    add: Annotated[list[Path] | None, typer.Option(help="nnunet: join this one, too.")] = None,
    test: Annotated[
        Path | None, typer.Option(help="nnunet: real scans; those kept back validate.")
    ] = None,
    copies: Annotated[
        int | None, typer.Option(min=1, help="nnunet: generated pairs per mask, at most.")
    ] = None,
    dataset_id: Annotated[int, typer.Option(help="nnunet: XXX of DatasetXXX.")] = 501,
    folds: Annotated[int, typer.Option(help="nnunet: 1 validates on kept-back scans.")] = 1,
) -> None:
    """Write one pair as the scan it came from was, or pair sets as a data set of nnU-Net."""
    from common.data.datasets import PairSet
    from common.data.export import export_pair
    from common.data.nnunet import export_folders

    if form not in ("native", "nnunet") or (form == "native") != (pair is not None):
        raise MedpairError(
            f"--format: {form} with ID {pair}, wanted native with an ID or nnunet without one; "
            "the ids stand in manifest.jsonl"
        )
    if pair is not None:
        for path in export_pair(PairSet.open(pairset), pair, out_dir):
            say(str(path))
        return
    with shown(err) as progress:
        made = export_folders(
            [pairset, *(add or [])],
            out_dir,
            test=test,
            copies=copies,
            dataset_id=dataset_id,
            folds=folds,
            progress=progress,
        )
    for line in made.lines():
        say(line)


@app.command()
def info(
    what: Annotated[str | None, typer.Argument(help="A bundle, pipeline or pair set.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what is installed, or what a bundle, pipeline or pair set holds."""
    from common import info
    from common.io.atomic import to_json

    rows = info.describe(what)
    if as_json:
        say(to_json(info.as_json(rows), indent=1))
        return
    for key, value in rows:
        say(f"{key}: {value}")


add_judging(app)
add_pack(app)
add_import(app)
add_auditing(app)
add_uses(app)
add_comparison(app)
add_cards(app)
add_report(app)


def one_line(error: BaseException) -> str | None:
    """Return the line to show for a user's mistake; None for an error that is ours.

    MONAI wraps what a config's objects raise, so the causes are searched as well.

    Args:
        error: what a subcommand raised.
    """
    for cause in _causes(error):
        if isinstance(cause, MedpairError):
            return " ".join(str(cause).split())
        if isinstance(cause, OSError):
            return _os_error(cause)
        if hasattr(cause, "format_message"):  # wrong words on the command line
            return " ".join(str(cause.format_message()).split())
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _os_error(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _run(words: Sequence[str]) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(list(words) or ["--help"], prog_name="medpair", standalone_mode=False)
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        complain(line)
        incomplete = any(isinstance(cause, IncompleteError) for cause in _causes(error))
        return INCOMPLETE if incomplete else USER_ERROR
    if code == INTERRUPTED:
        complain("interrupted: the same command continues")
    return code if isinstance(code, int) else 0


def main(words: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0, 2 with one line on standard error for a user's mistake, or 1.

    1 says that the work is done but for some items, which lines on standard error name.

    Args:
        words: the command line without the program's name; default ``sys.argv[1:]``.
    """
    sys.exit(_run(sys.argv[1:] if words is None else words))
