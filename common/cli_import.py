"""The command that imports weights of other packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from common.completion import bundle_names, preset_names
from common.console import say
from common.errors import MedpairError


def import_weights(
    checkpoint: Annotated[Path, typer.Argument(help="State dict of a network, a .pt file.")],
    bundle: Annotated[
        str,
        typer.Argument(
            help="mcdpm_mask, sdm_refiner or gem3d_volume.", autocompletion=bundle_names
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The .pt file to write.")],
    part: Annotated[
        str | None, typer.Option(help="Of gem3d_volume: autoencoder or slice_generator.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="It describes the network.", autocompletion=preset_names)
    ] = "monai",
    overlay: Annotated[
        Path | None, typer.Option(help="YAML file with the checkpoint's sizes, by config key.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Pair set; its slices tell the spread of latents.")
    ] = None,
    scale_factor: Annotated[
        float | None, typer.Option(help="What latents were multiplied by, instead of --data.")
    ] = None,
) -> None:
    """Convert a checkpoint of monai-generative to weights of a bundle."""
    from common.importing import import_weights as run

    written = run(
        checkpoint,
        bundle,
        out,
        part=part,
        preset=preset,
        overrides=None if overlay is None else _read(overlay),
        data=data,
        scale_factor=scale_factor,
    )
    say(f"weights and card in {written}")


def _read(path: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise MedpairError(f"{path}: no overlay ({reason}); write key: value") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise MedpairError(f"{path}: no lines of key: value; write it like presets/monai.yaml")
    return content
