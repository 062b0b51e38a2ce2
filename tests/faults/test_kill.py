"""A generation killed at any moment leaves only whole pairs and ends in equal bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_jobs import STAGES, job
from common.runs import run_stages
from pathlib import Path

def slowly(stage):
    def run(batch):
        time.sleep(0.05)
        return stage(batch)
    return run

print("ready", flush=True)
run_stages({name: slowly(s) for name, s in STAGES.items()}, job(Path(sys.argv[1]), 12), {})
"""


def start(out: Path) -> subprocess.Popen[str]:
    here = Path(__file__).resolve().parent.parent / "common"
    command = [sys.executable, "-c", SCRIPT, str(out), str(here)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
    return process


def tree(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "run.jsonl")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("delay", [0.02, 0.11, 0.23])
def test_killed_and_started_again(tmp_path: Path, delay: float) -> None:
    assert start(tmp_path / "whole").wait(timeout=60) == 0
    process = start(tmp_path / "cut")
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    names = {p.name for p in (tmp_path / "cut").rglob("*.nii.gz") if not p.name.startswith(".tmp-")}
    assert names <= {p.name for p in (tmp_path / "whole").rglob("*.nii.gz")}
    assert start(tmp_path / "cut").wait(timeout=60) == 0
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
