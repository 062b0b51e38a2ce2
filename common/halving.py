"""Batches that do not fit into memory run as two halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from common.data.pairs import PairBatch
from common.errors import MedpairError
from common.jobs import Stage

_SAYS = (  # what plain RuntimeErrors say
    "can't allocate memory",  # torch's allocator on the CPU
    "out of memory",  # CUDA and Triton outside of torch's allocator
    "ALLOC_FAILED",  # cuBLAS, cuDNN
)


def run_halving(
    name: str,
    stage: Stage,
    batch: PairBatch,
    *,
    exact: bool = False,
    fitted: dict[str, int] | None = None,
) -> tuple[PairBatch, int]:
    """Run a stage; where memory runs out, run it on halves of the batch, down to one volume.

    Noise is keyed by volume, so that the results are equal but for the rounding that may differ
    with the number of volumes in a batch.

    Args:
        name: of the stage.
        stage: what runs.
        batch: what goes in.
        exact: refuse halves, whose rounding may differ.
        fitted: volumes that fitted before by stage, from which further batches start; kept up
            to date.

    Returns:
        The finished batch, and the volumes of the smallest batch that ran.

    Raises:
        MedpairError: if even one volume does not fit, or ``exact`` is on.
    """
    fitted = {} if fitted is None else fitted
    volumes = len(batch.volumes)
    if volumes > fitted.get(name, volumes):
        return _halves(name, stage, batch, fitted)
    try:
        return stage(batch), volumes
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error) is None:
            raise
        said = " ".join(str(error).split())[:150]
    if volumes == 1 or exact:
        repair = "choose a smaller preset"
        if volumes > 1:
            repair = "give a smaller --batch-volumes and a new --out"
        raise MedpairError(
            f"{name} stage: {volumes} volumes do not fit into memory ({said}); {repair}"
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    fitted[name] = -(-volumes // 2)
    return _halves(name, stage, batch, fitted)


def _halves(
    name: str, stage: Stage, batch: PairBatch, fitted: dict[str, int]
) -> tuple[PairBatch, int]:
    volumes = len(batch.volumes)
    half = volumes // 2
    parts = [
        run_halving(name, stage, taken(batch, part), fitted=fitted)
        for part in (slice(0, half), slice(half, volumes))
    ]
    return joined([part for part, _ in parts]), min(size for _, size in parts)


def out_of_memory(error: BaseException) -> BaseException | None:
    """Return what says that memory ran out, an error or a cause of it, on a GPU or on the CPU.

    None where nothing does.
    """
    cause: BaseException | None = error
    while cause is not None:
        says = isinstance(cause, RuntimeError) and any(word in str(cause) for word in _SAYS)
        if says or isinstance(cause, torch.OutOfMemoryError | MemoryError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def taken(batch: PairBatch, part: slice) -> PairBatch:
    """Return some volumes of a batch."""
    return replace(batch, **{name: getattr(batch, name)[part] for name in _per_volume(batch)})


def joined(parts: Sequence[PairBatch]) -> PairBatch:
    """Return the volumes of several batches of one kind as one batch."""
    values: dict[str, Any] = {}
    for name in _per_volume(parts[0]):
        found = [getattr(part, name) for part in parts]
        tensors = isinstance(found[0], Tensor)
        values[name] = torch.cat(found) if tensors else tuple(v for one in found for v in one)
    return replace(parts[0], **values)


def _per_volume(batch: PairBatch) -> list[str]:
    shared = ("seed", "schema", "spacing", "size")
    names = [field.name for field in fields(batch) if field.name not in shared]
    return [name for name in names if getattr(batch, name) is not None]
