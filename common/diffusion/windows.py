"""The plan by which a volume of any depth is generated window by window from a start slice.

Slices are numbered along D. A window covers `window` neighbouring slices; those that are
generated already are its `known` slices, the others its `new` ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise, zip_longest

from common.errors import MedpairError


@dataclass(frozen=True)
class Window:
    """One network window.

    Args:
        start: first slice of the window.
        known: slices generated before; they touch one end of the window (empty in the first).
        new: slices this window writes.
    """

    start: int
    known: range
    new: range

    @property
    def backward(self) -> bool:
        """Whether the window extends what is generated towards slice 0."""
        return self.new.start < self.known.start

    def local(self, slices: range) -> slice:
        """The positions of `slices` (`known` or `new`) inside the window, as a slice object."""
        return slice(slices.start - self.start, slices.stop - self.start)


@dataclass(frozen=True)
class WindowPlan:
    """Windows in rounds: first the start window, then forward and backward windows side by side.

    Windows of one round do not depend on each other, so a round runs as one batch. No two windows
    of a plan share their `start`, which makes it a good window number for the noise.

    Args:
        depth: slices wanted.
        window: slices per window.
        overlap: least number of known slices in every window but the first.
        rounds: each one or two windows; where two, the forward one comes first.
    """

    depth: int
    window: int
    overlap: int
    rounds: tuple[tuple[Window, ...], ...]

    @property
    def padded_depth(self) -> int:
        """Slices that are written: the depth, or the window where it is longer (then crop)."""
        return max(self.depth, self.window)

    @property
    def joints(self) -> tuple[int, ...]:
        """The slices k in 1..depth-1 that another window wrote than slice k - 1, in order."""
        writer = dict.fromkeys(range(self.padded_depth), -1)
        for number, window in enumerate(chain(*self.rounds)):
            writer |= dict.fromkeys(window.new, number)
        return tuple(k for j, k in pairwise(range(self.depth)) if writer[j] != writer[k])

    def __iter__(self) -> Iterator[tuple[Window, ...]]:
        return iter(self.rounds)

    def __len__(self) -> int:
        return len(self.rounds)


def plan_windows(depth: int, window: int, overlap: int, start: int) -> WindowPlan:
    """Plan the start window, then the windows that grow from it to both ends.

    Every slice of `padded_depth` is written exactly once. A window at an end of the volume is
    moved inwards, so it knows more slices, each at its true index.

    Args:
        depth: slices wanted, >= 1. Not above `window`: one window, padded at the far end.
        window: slices per window, >= 2.
        overlap: least number of known slices, 1..window-1.
        start: first slice of the start window where it fits, 0..depth-1.

    Returns:
        The plan.

    Raises:
        MedpairError: if an argument lies outside its range.
    """
    _check(depth, window, overlap, start)
    return _plan(depth, window, overlap, start)


def plan_side_by_side(depth: int, window: int, start: int) -> WindowPlan:
    """As `plan_windows` for windows that do not overlap, for ablation.

    Only a window that is moved inwards at an end of the volume has known slices; the empty range
    of the others marks the joint.
    """
    _check(depth, window, 1, start)
    return _plan(depth, window, 0, start)


def _plan(depth: int, window: int, overlap: int, start: int) -> WindowPlan:
    first = max(0, min(start, depth - window))
    initial = Window(first, range(first, first), range(first, first + window))
    forward = _forward(first + window, depth, window, overlap)
    backward = _backward(first, window, overlap)
    pairs = zip_longest(forward, backward)
    rounds = tuple(tuple(w for w in pair if w is not None) for pair in pairs)
    return WindowPlan(depth, window, overlap, ((initial,), *rounds))


def _forward(hi: int, depth: int, window: int, overlap: int) -> Iterator[Window]:
    """Windows that extend the generated slices [.., hi) up to depth."""
    while hi < depth:
        start = min(hi - overlap, depth - window)
        yield Window(start, range(start, hi), range(hi, start + window))
        hi = start + window


def _backward(lo: int, window: int, overlap: int) -> Iterator[Window]:
    """Windows that extend the generated slices [lo, ..) down to 0."""
    while lo > 0:
        start = max(lo + overlap - window, 0)
        yield Window(start, range(lo, start + window), range(start, lo))
        lo = start


def _check(depth: int, window: int, overlap: int, start: int) -> None:
    if depth < 1:
        raise MedpairError(f"depth: {depth}; want >= 1 slices; ask for a deeper volume")
    if window < 2:
        raise MedpairError(f"window: {window}; want >= 2 slices; change the window")
    if not 1 <= overlap < window:
        raise MedpairError(f"overlap: {overlap}; want 1..{window - 1}; change the overlap")
    if not 0 <= start < depth:
        raise MedpairError(f"start: {start}; want 0..{depth - 1}; choose a slice of the volume")
