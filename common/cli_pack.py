"""The command that packs bundles."""

from __future__ import annotations

from typing import Annotated

import typer

from common.completion import packable_names
from common.console import OutDir, say


def pack(
    name: Annotated[str, typer.Argument(help="A bundle, or all.", autocompletion=packable_names)],
    out_dir: OutDir,
) -> None:
    """Write bundles as zip files for the model zoo or MONAI Label; they need no medpair."""
    from common.pack import pack as run

    for path in run(name, out_dir):
        say(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
