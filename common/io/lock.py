"""One run at a time in an output folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import MedpairError


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, and clear what a killed run left unfinished in it.

    The lock is the kernel's and dies with the process, so nothing has to be removed after a crash.

    Args:
        folder: the output folder; it is made where it is missing.

    Raises:
        MedpairError: if another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MedpairError(
                f"{folder}: another run is writing here; wait for it or choose another --out"
            ) from error
        for leftover in folder.rglob(".tmp-*"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)
