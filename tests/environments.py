"""Other Python environments, to try what a user without our source tree has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def foreign_environment(folder: Path) -> str:
    """Make an environment with all that medpair wants, but not medpair; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    there = {Path(line).resolve() for line in sys.path if line}
    # a .pth file leads there, but the .pth files in there, ours among them, are not read
    kept = [path for path in there if path.name == "site-packages"]
    (site / "packages.pth").write_text("".join(f"{path}\n" for path in kept))
    return str(folder / "bin" / "python")


def run_apart(
    python: str, words: Sequence[str], place: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a Python command in a folder, without our variables of the environment."""
    place.mkdir(exist_ok=True)
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    quiet = {"PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**kept, **quiet, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(
        [python, *words], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
