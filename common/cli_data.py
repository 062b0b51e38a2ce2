"""The commands about data: info, prepare, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.bars import shown
from common.completion import known_names, schema_names
from common.console import OutDir, err, say, show
from common.errors import MedpairError

# torch and monai take seconds to import: commands import what they need when they run.


def info(
    what: Annotated[
        str | None,
        typer.Argument(help="A bundle, pipeline or pair set.", autocompletion=known_names),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what is installed, or what a bundle, pipeline or pair set holds."""
    from common import info
    from common.io.atomic import to_json

    rows = info.describe(what)
    if as_json:
        show(to_json(info.as_json(rows), indent=1))
        return
    for key, value in rows:
        show(f"{key}: {value}")


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


def prepare(
    images: Annotated[Path, typer.Option(help="Folder of images (.nii, .nii.gz, .mgz), or DICOM.")],
    labels: Annotated[Path, typer.Option(help="Folder of masks; may be the same folder.")],
    schema: Annotated[
        str, typer.Option(help="Label schema: a name or a YAML file.", autocompletion=schema_names)
    ],
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
    series: Annotated[str | None, typer.Option(help="DICOM: series UID, or modality.")] = None,
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
            series=series,
            progress=progress,
        )
    say(f"{len(pairs.ids())} pairs in {out_dir}")


def export(
    pairset: Annotated[Path, typer.Argument(help="Pair set.")],
    out_dir: OutDir,
    pair: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One pair; default: all of them.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="nifti, dicom, monailabel, nnunet or compact.")
    ] = "nifti",
    add: Annotated[list[Path] | None, typer.Option(help="nnunet: join this one, too.")] = None,
    test: Annotated[
        Path | None, typer.Option(help="nnunet: real scans; those kept back validate.")
    ] = None,
    copies: Annotated[
        int | None, typer.Option(min=1, help="nnunet: generated pairs per mask, at most.")
    ] = None,
    dataset_id: Annotated[int, typer.Option(help="nnunet: XXX of DatasetXXX.")] = 501,
    folds: Annotated[int, typer.Option(help="nnunet: 1 validates on kept-back scans.")] = 1,
    kept_back: Annotated[
        bool, typer.Option("--kept-back", help="compact: the scans kept back, too.")
    ] = False,
    bits: Annotated[int, typer.Option(help="compact: of the images, 16 or 8.")] = 16,
) -> None:
    """Write pairs on their scans' own grids, as DICOM, as studies, for nnU-Net, or as one file."""
    from common.data.datasets import PairSet

    if form == "compact":
        if pair is not None:
            raise MedpairError(f"ID: {pair} with --format compact, wanted whole sets; leave it out")
        _export_compact(pairset, out_dir, kept_back, bits)
        return
    if form == "nnunet":
        if pair is not None:
            raise MedpairError(f"ID: {pair} with --format nnunet, wanted whole sets; leave it out")
        _export_nnunet([pairset, *(add or [])], out_dir, test, copies, dataset_id, folds)
        return
    opened, ids = PairSet.open(pairset), None if pair is None else [pair]
    with shown(err) as progress:
        if form == "dicom":
            from common.data.dicom_export import export_dicom

            made = len(export_dicom(opened, out_dir, ids, progress))
        else:
            from common.data.export import export_files

            made = len(export_files(opened, out_dir, ids, form, progress))
    say(f"{made} pairs in {out_dir}")


def _export_compact(pairset: Path, path: Path, kept_back: bool, bits: int) -> None:
    from common.data.compact import CompactSet, write_compact
    from common.data.datasets import PairSet

    with shown(err) as progress:
        opened = PairSet.open(pairset)
        error = write_compact(opened, path, kept_back=kept_back, bits=bits, progress=progress)
    size = path.stat().st_size / 1e6
    held = len(CompactSet(path).lines())
    say(f"{held} pairs in {path}: {size:.2f} MB, images within {error:.2g} of the pair set's")


def _export_nnunet(
    sets: list[Path],
    out: Path,
    test: Path | None,
    copies: int | None,
    dataset_id: int,
    folds: int,
) -> None:
    from common.data.nnunet import export_folders

    with shown(err) as progress:
        made = export_folders(
            sets,
            out,
            test=test,
            copies=copies,
            dataset_id=dataset_id,
            folds=folds,
            progress=progress,
        )
    for line in made.lines():
        say(line)
