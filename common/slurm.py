"""A script for Slurm that makes a pair set as an array of parts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import MedpairError
from common.io.atomic import write_text

PART = '"$SLURM_ARRAY_TASK_ID"'
SCRIPT = """#!/bin/bash
#SBATCH --job-name=medpair
#SBATCH --array=0-{last}
#SBATCH --output={log}
# Add what your cluster wants: --partition, --gres=gpu:1, --time, --mem.
# Submitted again, it makes what is missing.
set -euo pipefail
exec {command} --num-parts {parts} --part-id {part}
"""


def write_array(words: Sequence[str], out: Path, parts: int) -> Path:
    """Write ``<out>.sbatch``, whose tasks share a generation.

    Args:
        words: the command without its part, such as ``["generate", "medgen3d", ...]``.
        out: folder of the pair set.
        parts: tasks of the array, >= 2.

    Raises:
        MedpairError: for fewer parts.
    """
    if parts < 2:
        raise MedpairError(f"--num-parts: {parts}, wanted >= 2 for an array; ask for more parts")
    path = out.absolute().with_name(f"{out.name}.sbatch")
    log = path.with_suffix("")
    text = SCRIPT.format(
        last=parts - 1,
        log=shlex.quote(f"{log}-%a.log"),
        command=shlex.join([sys.executable, "-m", "medpair", *words]),
        parts=parts,
        part=PART,
    )
    write_text(path, text)
    path.chmod(0o755)
    return path
