"""Files that are either whole under their final name or not there at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(final: str | Path) -> Iterator[Path]:
    """A temporary path that becomes `final` when the block ends well, and vanishes when it fails.

    The temporary file stands in the same folder, because a rename is atomic only inside one file
    system; it is flushed to disk before the rename, so that a power cut leaves no empty file.

    Args:
        final: the file's final name; its folder is made where it is missing.

    Yields:
        The path to write to; it keeps the suffixes of `final` (writers choose formats by them).
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".tmp-{os.getpid()}-{final.name}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(final)
    except OSError as error:
        if error.errno and error.filename is None:  # a write to a full disk knows no names
            error.filename = str(final)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    _flush(final.parent)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 file atomically, line ends as given."""
    write_bytes(path, text.encode("utf-8"))


def to_json(data: Any, indent: int | None = None) -> str:
    """JSON with keys in the given order and no NaN, which other readers reject."""
    return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: str | Path, data: Any) -> None:
    """Write an indented JSON file atomically."""
    write_text(path, to_json(data, indent=1) + "\n")


def append_jsonl(path: str | Path, record: Any) -> None:
    """Append one line to a log of JSON lines and flush it to disk.

    A line that a crash cut short is closed first, so that it cannot swallow the next one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        torn = file.tell() > 0 and _last_byte(path) != b"\n"
        file.write(b"\n" * torn + to_json(record).encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
