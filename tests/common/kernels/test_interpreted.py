"""The kernels without a GPU: through the interpreter, and through the compiler up to the binary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common.kernels.conftest import INTERPRETED

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]
pytestmark = pytest.mark.skipif(INTERPRETED, reason="this process is the interpreter")


def run(*words: str, **variables: str) -> str:
    pytest.importorskip("triton", reason="triton cannot be imported here")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def test_every_kernel_equals_the_reference_in_the_interpreter(tmp_path: Path) -> None:
    said = run(
        "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", str(FOLDER),
        TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert "passed" in said


def test_the_compiler_takes_every_kernel_for_three_generations_of_gpus(tmp_path: Path) -> None:
    said = run(str(FOLDER / "compile_ahead.py"), TRITON_CACHE_DIR=str(tmp_path))
    kernels = ("whole", "partial", "join", "apply", "tail", "window", "one_hot")
    assert {line.split(" bytes")[0].rsplit(" ", 1)[0] for line in said.splitlines()} == {
        f"{kernel}_kernel sm_{target}" for kernel in kernels for target in (75, 80, 90)
    }
