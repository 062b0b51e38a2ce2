from hypothesis import given
from hypothesis import strategies as st

from common.diffusion.lockstep import lockstep
from common.diffusion.windows import WindowPlan, plan_windows


@st.composite
def plans(draw: st.DrawFn) -> list[WindowPlan]:
    """Plans of one to five volumes of one depth with their own starts."""
    depth, window = draw(st.integers(1, 40)), draw(st.integers(2, 8))
    overlap = draw(st.integers(1, window - 1))
    starts = draw(st.lists(st.integers(0, depth - 1), min_size=1, max_size=5))
    return [plan_windows(depth, window, overlap, start) for start in starts]


@given(plans())
def test_every_window_runs_once_after_the_windows_it_knows(several: list[WindowPlan]) -> None:
    done: list[set[int]] = [set() for _ in several]
    for batch in lockstep(several):
        for placed in batch.windows:
            assert set(placed.window.known) <= done[placed.slot]
        for placed in batch.windows:  # a round's windows do not depend on each other
            assert not done[placed.slot] & set(placed.window.new)
            done[placed.slot] |= set(placed.window.new)
    assert done == [set(range(plan.padded_depth)) for plan in several]


@given(plans())
def test_rows_are_a_slots_own(several: list[WindowPlan]) -> None:
    rounds = list(lockstep(several))
    assert [b.rows for b in rounds] == [len(several)] + [2 * len(several)] * (len(rounds) - 1)
    assert [p.row for p in rounds[0].windows] == list(range(len(several)))
    for batch in rounds[1:]:
        rows = [placed.row for placed in batch.windows]
        assert len(set(rows)) == len(rows)
        for placed in batch.windows:
            backward = placed.window.new.stop <= placed.window.known.start
            assert placed.row == 2 * placed.slot + backward


@given(plans())
def test_a_volume_meets_the_same_rounds_with_any_neighbours(several: list[WindowPlan]) -> None:
    alone = [[(p.row, p.window) for p in b.windows] for b in lockstep(several[:1])]
    mixed = [[(p.row, p.window) for p in b.windows if p.slot == 0] for b in lockstep(several)]
    assert mixed[: len(alone)] == alone
    assert not any(mixed[len(alone) :])
