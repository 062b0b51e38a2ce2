"""Who may write in an output folder: one run, or the parts of one run together."""

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
    with _held(folder, fcntl.LOCK_EX, folder):
        for leftover in folder.rglob(".tmp-*"):
            leftover.unlink(missing_ok=True)
        yield


@contextmanager
def shared(folder: Path, part: str) -> Iterator[None]:
    """Hold a folder together with the other parts of a run.

    Args:
        folder: the output folder; it is made where it is missing.
        part: name of this part.

    Raises:
        MedpairError: if a run that is no part, or this very part, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".tmp-{part}"  # a name that later runs clear away
    token.touch()
    with _held(folder, fcntl.LOCK_SH, folder), _held(token, fcntl.LOCK_EX, folder):
        yield
        token.unlink()


@contextmanager
def brief(folder: Path) -> Iterator[None]:
    """Wait for a folder that other parts of a run change, too, and hold it for a moment.

    Args:
        folder: it exists.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _held(path: Path, how: int, folder: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MedpairError(
                f"{folder}: another run is writing here; wait for it or choose another --out"
            ) from error
        yield
    finally:
        os.close(descriptor)
