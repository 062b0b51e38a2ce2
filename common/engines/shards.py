"""State dicts in files of at most 12 MB: larger ones are an index and a folder of shards.

Code hosting is at ease with small files, and a download that broke off repeats one of them alone.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import MedpairError
from common.io.atomic import atomic_path, write_bytes
from common.io.manifest import sha256
from common.io.weight_files import shards_folder, shards_of

LIMIT = 12_000_000
"""Most bytes of a file, unless a single tensor is larger."""

HEADERS = 0.98  # share of a shard that tensors may take
INDEX = "shards"


class ShardError(MedpairError):
    """A shard is missing or damaged."""


def save_state(state: Mapping[str, Tensor], path: Path, limit: int = LIMIT) -> None:
    """Write a state dict as one file, or as an index and shards if it is larger than the limit.

    Shards are named after their content and written first, the index last, and only then are
    older shards removed: at any time the path holds all of one state, or nothing.

    Args:
        state: name -> tensor on the CPU.
        path: the ``.pt`` file; shards go to the folder ``<stem>_shards`` beside it.
        limit: most bytes of a file.
    """
    content, shards = _bytes(state), dict[str, str]()
    if len(content) > limit:
        parts = _parts(state, int(HEADERS * limit))
        shards = dict(_save_shard(part, shards_folder(path)) for part in parts)
        content = _bytes({INDEX: shards})
    write_bytes(path, content)
    for old in shards_of(path):
        if old.name not in shards:
            old.unlink()


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file, with its shards where it is an index.

    Args:
        path: the ``.pt`` file.

    Raises:
        ShardError: if a shard is missing or damaged.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    shards = _shards_in(state)
    if shards is None:
        return state
    whole: dict[str, Tensor] = {}
    for name, wanted in shards.items():
        shard = shards_folder(path) / name
        found = sha256(shard) if shard.is_file() else "no such file"
        if found != wanted:
            raise ShardError(
                f"{shard}: sha256 {found}, wanted {wanted}, as {path.name} says; fetch it again"
            )
        whole |= torch.load(shard, map_location="cpu", weights_only=True)
    return whole


def copy_state(path: Path, to: Path) -> None:
    """Copy a weight file with its shards."""
    for shard in shards_of(path):
        with atomic_path(shards_folder(to) / shard.name) as temporary:
            shutil.copy(shard, temporary)
    with atomic_path(to) as temporary:
        shutil.copy(path, temporary)


def _shards_in(state: Any) -> Mapping[str, str] | None:
    """Return file name -> SHA-256 of the shards that an index lists; None for anything else."""
    found = state.get(INDEX) if isinstance(state, Mapping) and len(state) == 1 else None
    return None if found is None or isinstance(found, Tensor) else found


def _parts(state: Mapping[str, Tensor], most: int) -> Iterator[dict[str, Tensor]]:
    """Yield the state in parts of at most so many bytes, in order."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, value in state.items():
        if part and size + value.nbytes > most:
            yield part
            part, size = {}, 0
        part[name] = value
        size += value.nbytes
    yield part


def _save_shard(part: Mapping[str, Tensor], folder: Path) -> tuple[str, str]:
    """Write a shard under the beginning of its SHA-256; return its name and that."""
    content = _bytes(part)
    digest = hashlib.sha256(content).hexdigest()
    write_bytes(folder / f"{digest[:16]}.pt", content)
    return f"{digest[:16]}.pt", digest


def _bytes(content: Mapping[str, Any]) -> bytes:
    """Return what `torch.save` writes; to a file it would write the file's name as well."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()
