"""What `medpair train` decides before a training begins: its length, its options, its memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from common.engines.device import pick_device
from common.errors import MedpairError
from common.gating import StageEntry
from common.halving import out_of_memory

FAST: Mapping[str, Any] = {"compile": True, "fused": True, "cache_device": "@device"}
"""Options of the training configs that are meant for GPUs.

Results differ by rounding, and by the noise of the batches, which is drawn on the device."""

TRAINING_KEY = "training_gib"
"""Key of a preset in a pipeline: peak of a GPU's memory in each stage's training, in GiB."""


def trainings(stages: Sequence[StageEntry]) -> Iterator[tuple[StageEntry, str, float]]:
    """Yield each stage with each of its training configs and that one's share of its minutes."""
    for stage in stages:
        kinds = stage.get("trainings", ["train"])
        shares = stage.get("shares", [1.0] * len(kinds))
        for kind, share in zip(kinds, shares, strict=True):
            yield stage, kind, share / sum(shares)


def length_of(
    max_iterations: int | None, minutes: float | None, share: float = 1.0
) -> dict[str, Any]:
    """Return the config values that set the length of a training.

    Args:
        max_iterations: None takes the preset's.
        minutes: of the whole stage, instead; None for none.
        share: of the stage's minutes.

    Raises:
        MedpairError: for both.
    """
    if minutes is not None and max_iterations is not None:
        raise MedpairError(
            f"--minutes {minutes:g} and --max-iterations {max_iterations}, wanted one of them; "
            "leave one out"
        )
    if minutes is not None:
        return {"minutes": minutes * share}
    return {} if max_iterations is None else {"max_iterations": max_iterations}


def check_training_memory(entry: Mapping[str, Any], stages: Sequence[str], preset: str) -> None:
    """Refuse to train where a GPU has less memory than a stage is known to need.

    Args:
        entry: of the preset in a pipeline; stages without a number are not checked.
        stages: names of those that are trained.
        preset: its name, for the message.

    Raises:
        MedpairError: if less is free.
    """
    needed = max((float(entry.get(TRAINING_KEY, {}).get(name, 0)) for name in stages), default=0.0)
    device = pick_device()
    if device.type != "cuda" or not needed:
        return
    free = torch.cuda.mem_get_info(device)[0] / 2**30
    if free < needed:
        raise MedpairError(
            f"{torch.cuda.get_device_name(device)}: {free:.2f} GiB free, training preset {preset} "
            f"needs {needed:.2f} GiB; end other programs, or choose a smaller --preset"
        )


def free_memory() -> None:
    """Give back what ended trainings held, on a GPU as well."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def memory_errors(preset: str) -> Iterator[None]:
    """Say in one line that the memory did not do for the block.

    Args:
        preset: that is trained, for the message.

    Raises:
        MedpairError: instead of torch's own error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        cause = out_of_memory(error)
        if cause is None:
            raise
        reason = " ".join(str(cause).split())[:160]
        raise MedpairError(
            f"memory is too small for training preset {preset} ({reason}); choose a "
            "smaller --preset, or a smaller batch_size in the training config"
        ) from None
