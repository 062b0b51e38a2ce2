from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.diffusion.lockstep import lockstep
from common.diffusion.windows import WindowPlan
from common.errors import MedpairError
from gem3d.plan import ReleasedWindow, informed_by, plan_released, plan_volume

N = 16
DEPTHS = (100, 138, 155)


def writes(plan: WindowPlan) -> list[int]:
    """How often each slice is written."""
    counts = [0] * plan.padded_depth
    for window in chain(*plan):
        for z in window.new:
            counts[z] += 1
    return counts


def misplacement(plan: WindowPlan) -> list[int]:
    """By how many slices each known slice stands at a wrong place."""
    windows = [w for w in chain(*plan) if w.known]
    return [abs(w.local(w.known).start - (w.known.start - w.start)) for w in windows]


@given(st.integers(1, 160), st.integers(2, 20), st.booleans(), st.data())
def test_corrected_plans_write_each_slice_once_and_misplace_none(
    depth: int, window: int, overlapped: bool, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, depth - 1))
    overlap = data.draw(st.integers(1, window - 1))
    plan = plan_volume(depth, window, overlap, start, overlapped=overlapped)
    assert set(writes(plan)) == {1}
    assert not any(misplacement(plan))


@given(st.integers(2, 160), st.integers(2, 20), st.booleans(), st.data())
def test_later_windows_are_informed_by_the_neighbour_of_what_they_write(
    depth: int, window: int, overlapped: bool, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, depth - 1))
    (first,), *rounds = plan_volume(depth, window, 1, start, overlapped=overlapped)
    assert informed_by(first, True) is None
    done = set(first.new)
    for windows in rounds:
        for w in windows:
            source = informed_by(w, False)
            assert source in done
            assert source == (w.new.stop if w.backward else w.new.start - 1)
        done |= {z for w in windows for z in w.new}


def test_windows_side_by_side_know_nothing_but_at_the_ends() -> None:
    known = [len(w.known) for w in chain(*plan_volume(138, N, 1, 69, overlapped=False))]
    assert known == [0, 0, 0, 0, 0, 0, 0, 11, 0, 11]
    known = [len(w.known) for w in chain(*plan_volume(138, N, 1, 69))]
    assert known == [0, 1, 1, 1, 1, 1, 1, 8, 1, 7]


@given(st.integers(2, 160), st.data())
def test_joints_are_where_windows_meet(depth: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, depth - 1))
    plan = plan_volume(depth, N, 1, start)
    _, *later = chain(*plan)
    assert list(plan.joints) == sorted(w.new.stop if w.backward else w.new.start for w in later)


@pytest.mark.parametrize(("depth", "left"), [(100, 7), (138, 10), (155, 11)])
def test_released_plan_leaves_a_slice_for_the_published_starts(depth: int, left: int) -> None:
    """Methods 7.3, defect 3: starts with start mod 15 = 1."""
    missing = {s: writes(plan_released(depth, N, s)).count(0) for s in range(depth)}
    assert {s: n for s, n in missing.items() if n} == dict.fromkeys(range(1, depth, 15), 1)
    assert sum(missing.values()) == left


@pytest.mark.parametrize("depth", DEPTHS)
def test_released_plan_misplaces_and_overwrites(depth: int) -> None:
    """Methods 7.3, defect 2: by up to 14 slices; about 14 slices and two copies."""
    plans = [plan_released(depth, N, s) for s in range(depth)]
    assert max(max(misplacement(plan)) for plan in plans) == 14
    again = [sum(n - 1 for n in writes(plan) if n) for plan in plans]
    assert 15 <= sum(again) / depth <= 17


def test_released_plan_starts_down_again_without_a_known_slice() -> None:
    """Defect 4: the initial slice is written twice, from the initial informed slice."""
    plan = plan_released(138, N, 69)
    up, down = plan.rounds[0][0], plan.rounds[1][1]
    assert (up.start, list(up.known), up.new) == (69, [], range(69, 85))
    assert (down.start, list(down.known), down.new) == (54, [], range(54, 70))
    assert informed_by(down, False) is None
    assert 70 in plan.joints


@given(st.integers(1, 160), st.integers(2, 20), st.data())
def test_released_plan_runs_in_the_same_loop(depth: int, window: int, data: st.DataObject) -> None:
    """Rounds of at most a forward and a backward window, in order, inside the volume."""
    plan = plan_released(depth, window, data.draw(st.integers(0, depth - 1)))
    done: set[int] = set()
    for batch in lockstep([plan]):
        rows = [p.row for p in batch.windows]
        assert rows == sorted(set(rows))
        for w in (p.window for p in batch.windows):
            assert isinstance(w, ReleasedWindow)
            assert 0 <= w.start <= plan.padded_depth - window
            assert set(w.known) <= done
            assert set(w.new) <= set(range(w.start, w.start + window))
        done |= {z for p in batch.windows for z in p.window.new}


def test_wrong_requests_are_refused() -> None:
    for arguments, options, message in (
        ((9, 4, 4, 0), {}, "overlap: 4; want 1..3"),
        ((9, 4, 1, 9), {"tail": "official"}, "start: 9; want 0..8"),
        ((9, 4, 2, 0), {"tail": "official"}, "overlap: 2; want 1 with tail"),
        ((9, 4, 1, 0), {"tail": "pinned"}, "tail: 'pinned'; want 'overlap' or"),
    ):
        with pytest.raises(MedpairError, match=message):
            plan_volume(*arguments, **options)  # type: ignore[arg-type]
