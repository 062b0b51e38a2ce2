"""The viewer that a report needs beside it: NiiVue, one script that ships with its licence."""

from __future__ import annotations

from pathlib import Path

from common.errors import MedpairError
from common.io.atomic import write_bytes
from common.io.manifest import sha256

VENDOR = Path(__file__).parent / "vendor"
SCRIPT = "niivue.umd.js"
RELEASE = "0.69.0"
LICENCE = "niivue.LICENSE.txt"


def script_sha256() -> str:
    """Return the SHA-256 that the script was shipped with."""
    return (VENDOR / "SHA256SUMS").read_text(encoding="ascii").split()[0]


def put_viewer(folder: Path) -> None:
    """Copy the viewer and its licence into a folder, where they are not there yet.

    Args:
        folder: where the report goes.

    Raises:
        MedpairError: if the script of this installation was changed.
    """
    source, wanted = VENDOR / SCRIPT, script_sha256()
    if (folder / SCRIPT).is_file() and sha256(folder / SCRIPT) == wanted:
        return
    if sha256(source) != wanted:
        raise MedpairError(
            f"{source}: sha256 {sha256(source)[:12]}..., wanted {wanted[:12]}...; "
            "install medpair again"
        )
    write_bytes(folder / SCRIPT, source.read_bytes())
    write_bytes(folder / LICENCE, (VENDOR / "LICENSE").read_bytes())
