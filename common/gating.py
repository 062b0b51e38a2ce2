"""Whether a pipeline's gate runs: a stage that looks for faults in what the others made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

StageEntry = Mapping[str, Any]
BY_DEFAULT = "by_default"
"""Key of a gate's entry in a pipeline: the presets for which it runs without being asked for."""


def is_gate(stage: StageEntry) -> bool:
    """Return whether an entry of a pipeline is a gate."""
    return BY_DEFAULT in stage


def without_gate(
    stages: Sequence[StageEntry],
    *,
    named: bool,
    wanted: bool,
    preset: str,
    other_depth: int | None,
    weights: str | Path | None,
) -> tuple[list[StageEntry], str]:
    """Leave a gate out where it cannot judge, unless it was asked for by name.

    Args:
        stages: the chosen entries of a pipeline.
        named: whether the user named the stages; a gate among them runs.
        wanted: False leaves it out in any case.
        preset: size of the pairs.
        other_depth: slices of the pairs where the preset has another number; else None.
        weights: the user's weights; a gate runs by default with its own weights among them, because
            those that ship may know other scans.

    Returns:
        The stages to run, and why the gate is not among them ("" where it is).
    """
    kept = [stage for stage in stages if not is_gate(stage)]
    gates = [stage for stage in stages if is_gate(stage)]
    if not wanted or not gates:
        return kept, "left out"
    if named:
        return [*kept, *gates], ""
    gate = gates[0]
    if preset not in gate[BY_DEFAULT]:
        return kept, f"no ranges of real scans ship for preset {preset}"
    if other_depth is not None:
        return kept, f"{other_depth} slices, the ranges of real scans are for the preset's"
    if weights is not None and own_weights(gate, weights) is None:
        return kept, f"the given weights hold none of {gate['bundle']}"
    return [*kept, *gates], ""


def own_weights(stage: StageEntry, weights: str | Path | None) -> str | Path | None:
    """Return the user's weights if they hold some for a gate; None takes those that ship."""
    held = weights is not None and (Path(weights) / stage["bundle"] / "model.pt").is_file()
    return weights if held else None
