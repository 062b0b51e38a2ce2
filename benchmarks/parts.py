"""What the benchmarks of GEM-3D share: parts of the shipped weights, masks of any schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from common.data.datasets import PairSet
from common.engines.shards import read_state
from common.engines.weights import read_card
from common.stages import open_key, weights_path

SEGMENTER = "segmentation_eval"
SHOWN = 150
"""Body voxels from which on a slice's brightness counts."""


def of_schema(data: str) -> dict[str, Any]:
    """Return the overrides that fit a config to the masks of a pair set."""
    schema = PairSet.open(data).schema
    return {"schema": schema.name, "num_classes": schema.num_classes}


def shipped_part(name: str, preset: str) -> dict[str, Tensor]:
    """Return the state of a part of the shipped weights of `gem3d_volume` that saw no masks."""
    whole = read_state(weights_path("gem3d_volume", preset))
    return {k.partition(".")[2]: v for k, v in whole.items() if k.startswith(f"{name}.")}


def segmenter_of(
    data: str, preset: str, weights: str | None = None
) -> Callable[[Tensor], Tensor] | None:
    """Return the segmenter, None where it knows other labels than the pair set has.

    Args:
        data: the pair set.
        preset: of the segmenter.
        weights: folder with its weights; None takes those that ship.
    """
    known = read_card(weights_path(SEGMENTER, preset, weights))["schema"]
    if known != PairSet.open(data).schema.name:
        return None
    return open_key(SEGMENTER, "segment", preset, weights)
