"""The shell completes names, without torch and at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.bundles import bundles, schemas

ROOT = Path(__file__).parents[2]
CODE = """
import sys, atexit
def heavy():
    if {"torch", "monai", "numpy"} & set(sys.modules):
        print("HEAVY")
atexit.register(heavy)
from medpair import main
main()
"""


def completed(words: str, shell: str = "bash") -> list[str]:
    """Return what a shell is told when the cursor stands at the end of a line."""
    line = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    settings = {**os.environ, "_MEDPAIR_COMPLETE": f"complete_{shell}", **line}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(
        command, cwd=ROOT, env=settings, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("medpair ju", ["judge"]),
        ("medpair generate me", ["medgen3d"]),
        ("medpair train gem3d --preset ", ["tiny", "small", "base"]),
        ("medpair generate medgen3d --preset th", ["thorax"]),
        ("medpair evaluate vid", ["vid2vid_image"]),
        ("medpair evaluate sdm_refiner --preset m", ["monai"]),
        ("medpair evaluate mcdpm_mask --preset t", ["tiny", "thorax"]),
        ("medpair judge --preset s", ["small"]),
        ("medpair info gem3d", ["gem3d", "gem3d_volume"]),
        ("medpair pack ", [*bundles(), "all"]),
        ("medpair prepare --schema ", list(schemas())),
        ("medpair generate nothing", []),
        ("medpair --qu", ["--quiet"]),
    ],
)
def test_names_are_completed_without_torch(words: str, names: list[str]) -> None:
    assert completed(words) == names


def test_the_shell_gets_a_script() -> None:
    from typer.completion import get_completion_script

    script = get_completion_script(
        prog_name="medpair", complete_var="_MEDPAIR_COMPLETE", shell="bash"
    )
    assert "_MEDPAIR_COMPLETE=complete_bash" in script
