"""Which windows make a volume: the corrected plan, its ablation, and the released code's plan.

The released plan reproduces defects on purpose, so that the gain of the corrected one can be shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from common.diffusion.windows import Window, WindowPlan, plan_side_by_side, plan_windows
from common.errors import MedpairError

Tail = Literal["overlap", "official"]


@dataclass(frozen=True)
class ReleasedWindow(Window):
    """A window of the released code, which may hold its known slice at a wrong place.

    Args:
        start: first slice of the window.
        known: the slice generated before; empty in the first window of either direction.
        new: slices this window writes, generated before or not.
        down: whether it runs towards slice 0.
        known_at: position in the window where the known slice is put, right or wrong.
    """

    down: bool
    known_at: int

    @property
    def backward(self) -> bool:
        """As of `Window`; slices that are written again may lie on both sides of the known one."""
        return self.down

    def local(self, slices: range) -> slice:
        """As of `Window`, but the known slice stands at `known_at`."""
        if slices == self.known:
            return slice(self.known_at, self.known_at + len(slices))
        return super().local(slices)


def plan_volume(
    depth: int,
    window: int,
    overlap: int,
    start: int,
    *,
    tail: Tail = "overlap",
    overlapped: bool = True,
) -> WindowPlan:
    """Plan the windows of one volume.

    Args:
        depth: slices of the volume, >= 1.
        window: slices per window, >= 2.
        overlap: least number of known slices in a later window, 1..window-1.
        start: slice at which generation starts, 0..depth-1.
        tail: "overlap" writes each slice once; "official" is `plan_released`.
        overlapped: False puts the windows side by side (ablation C.1).

    Returns:
        The plan.

    Raises:
        MedpairError: if an argument lies outside its range, or "official" is asked for another
            overlap than 1.

    Source: GEM-3D, algorithm 1 (which leaves the last windows open).
    """
    plan = plan_windows(depth, window, overlap, start)
    if tail == "official":
        if overlap != 1:
            raise MedpairError(
                f"overlap: {overlap}; want 1 with tail 'official', the released code knows no "
                "other; change the overlap or the tail"
            )
        return plan_released(depth, window, start)
    if tail != "overlap":
        raise MedpairError(f"tail: {tail!r}; want 'overlap' or 'official'; change the key")
    return plan if overlapped else plan_side_by_side(depth, window, start)


def plan_released(depth: int, window: int, start: int) -> WindowPlan:
    """The plan of GEM-3D's released code, with its defects.

    The last window of a direction is pinned to the volume's end and written whole, while its known
    slice still goes to the window's edge; DOWN starts again from the initial informed slice and
    writes slice ``start`` a second time; it makes ceil((start - 1) / (window - 1)) windows, one
    too few where a slice is left over (it stays zero).

    Args: as of `plan_volume`.

    Returns:
        The plan; the first window of each direction has no known slice.
    """
    padded = max(depth, window)
    up = list(_up(padded, window, start))
    down = list(_down(window, start))
    pairs = zip_longest(up[1:], down)
    rounds = tuple(tuple(w for w in pair if w is not None) for pair in pairs)
    return WindowPlan(depth, window, 1, ((up[0],), *rounds))


def informed_by(window: Window, first: bool) -> int | None:
    """The slice whose latent informs a window.

    Args:
        window: a window of any plan of this module.
        first: whether it is the first of its plan.

    Returns:
        The newest generated slice at the joint, or None: the initial informed slice.

    Source: GEM-3D, algorithm 1, line 18.
    """
    if first or (isinstance(window, ReleasedWindow) and not window.known):
        return None
    return window.known.start if window.backward else window.known.stop - 1


def _up(padded: int, window: int, start: int) -> Iterator[ReleasedWindow]:
    stride = window - 1
    for number in range(max(1, -(-(padded - 1 - start) // stride))):
        edge = start + number * stride
        first = min(edge, padded - window)
        known = range(edge, edge + 1 if number else edge)
        right = bool(number) and first == edge
        yield ReleasedWindow(first, known, range(first + right, first + window), False, 0)


def _down(window: int, start: int) -> Iterator[ReleasedWindow]:
    stride = window - 1
    for number in range(max(0, -(-(start - 1) // stride))):
        edge = start - number * stride
        first = max(edge - stride, 0)
        known = range(edge, edge + 1 if number else edge)
        right = bool(number) and first == edge - stride
        yield ReleasedWindow(first, known, range(first, first + window - right), True, stride)
