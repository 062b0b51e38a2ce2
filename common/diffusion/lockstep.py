"""Window plans of many volumes run side by side, in batches of one fixed shape.

The place of a window in the batch depends only on the volume's slot and the direction, and missing
windows leave their place empty: a volume's bytes do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.diffusion.windows import Window, WindowPlan

DIRECTIONS = 2


@dataclass(frozen=True)
class Placed:
    """A window of one volume and its row in the batch."""

    row: int
    slot: int
    window: Window


@dataclass(frozen=True)
class Round:
    """Windows that run as one batch of ``rows`` rows; rows without a window are padding."""

    rows: int
    windows: tuple[Placed, ...]


def lockstep(plans: Sequence[WindowPlan]) -> Iterator[Round]:
    """Yield the rounds of several plans as common batches.

    Args:
        plans: one plan per slot (volume); starts and numbers of rounds may differ.

    Yields:
        First the start windows (a row per slot), then rounds with two rows per slot: forward
        windows in the even rows, backward windows in the odd ones.
    """
    starts = tuple(Placed(slot, slot, plan.rounds[0][0]) for slot, plan in enumerate(plans))
    yield Round(len(plans), starts)
    for index in range(1, max(len(plan.rounds) for plan in plans)):
        placed = tuple(
            Placed(DIRECTIONS * slot + int(window.backward), slot, window)
            for slot, plan in enumerate(plans)
            if index < len(plan.rounds)
            for window in plan.rounds[index]
        )
        yield Round(DIRECTIONS * len(plans), placed)
