import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.diffusion.windows import WindowPlan, plan_side_by_side, plan_windows
from common.errors import MedpairError


def check_plan(depth: int, window: int, overlap: int, start: int) -> WindowPlan:
    """The invariants of methods section 7.4, by painting the slices in the order of the rounds."""
    plan = plan_windows(depth, window, overlap, start)
    assert plan.padded_depth == max(depth, window)
    assert len(plan.rounds[0]) == 1
    written: set[int] = set()
    for number, windows in enumerate(plan):
        assert 1 <= len(windows) <= 2
        for w in windows:  # `written` holds earlier rounds only: windows of a round are independent
            inside = set(range(w.start, w.start + window))
            assert w.start >= 0
            assert w.start + window <= plan.padded_depth
            assert set(w.known) | set(w.new) == inside
            assert set(w.known) == inside & written  # all generated slices, at their own index
            assert len(w.known) >= (overlap if number else 0)
            assert len(w.new) >= 1
        new = [z for w in windows for z in w.new]
        assert len(new) == len(set(new))
        assert not written & set(new)
        written |= set(new)
    assert written == set(range(plan.padded_depth))
    return plan


@settings(max_examples=300)
@given(st.integers(1, 160), st.integers(2, 40), st.data())
def test_every_slice_is_written_once_from_known_neighbours(
    depth: int, window: int, data: st.DataObject
) -> None:
    overlap, start = data.draw(st.integers(1, window - 1)), data.draw(st.integers(0, depth - 1))
    check_plan(depth, window, overlap, start)


@pytest.mark.parametrize(("window", "overlap"), [(2, 1), (4, 1), (6, 2), (6, 5), (16, 3)])
def test_all_depths_and_starts(window: int, overlap: int) -> None:
    for depth in (*range(1, 4 * window), 100, 160):
        for start in range(depth):
            check_plan(depth, window, overlap, start)


@given(st.integers(1, 160), st.integers(2, 20), st.data())
def test_the_start_slice_is_in_the_first_window(
    depth: int, window: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, depth - 1))
    (first,) = plan_windows(depth, window, 1, start).rounds[0]
    assert start in first.new
    assert first.start == max(0, min(start, depth - window))


@given(st.integers(1, 160), st.integers(2, 20), st.data())
def test_window_starts_are_unique_so_that_they_number_the_noise(
    depth: int, window: int, data: st.DataObject
) -> None:
    overlap, start = data.draw(st.integers(1, window - 1)), data.draw(st.integers(0, depth - 1))
    starts = [w.start for w in itertools.chain(*plan_windows(depth, window, overlap, start))]
    assert len(starts) == len(set(starts))


def test_published_examples() -> None:
    rounds = [[len(w.known) for w in windows] for windows in plan_windows(138, 16, 1, 69)]
    assert rounds == [[0], [1, 1], [1, 1], [1, 1], [8, 1], [7]]
    assert sum(len(r) for r in plan_windows(96, 6, 2, 40)) == 24


def test_joints_are_where_another_window_wrote() -> None:
    # the start window writes 4..9, then 10..13 and 0..3; the last is moved inwards and writes 14
    assert plan_windows(15, 6, 2, 4).joints == (4, 10, 14)
    assert plan_windows(5, 6, 2, 0).joints == ()


def test_forward_and_backward_run_side_by_side() -> None:
    assert len(plan_windows(96, 6, 2, 45)) < 0.6 * len(plan_windows(96, 6, 2, 0))


@given(st.integers(1, 160), st.integers(2, 20), st.data())
def test_windows_side_by_side_know_slices_only_at_the_ends(
    depth: int, window: int, data: st.DataObject
) -> None:
    plan = plan_side_by_side(depth, window, data.draw(st.integers(0, depth - 1)))
    first, *later = [w for windows in plan for w in windows]
    assert sorted(z for w in [first, *later] for z in w.new) == list(range(plan.padded_depth))
    for w in later:
        joint = w.known.start if w.backward else w.known.stop
        assert w.backward == (w.start < first.start)
        assert joint == (w.new.stop if w.backward else w.new.start)
        assert not w.known or w.start in (0, depth - window)


def test_shallow_volumes_take_one_padded_window() -> None:
    plan = plan_windows(3, 8, 2, 1)
    assert plan.rounds == ((plan.rounds[0][0],),)
    assert plan.rounds[0][0].new == range(8)
    assert plan.padded_depth == 8


def test_local_positions_point_into_the_window() -> None:
    forward, backward = plan_windows(12, 4, 1, 4).rounds[1]
    assert (forward.start, forward.local(forward.known), forward.local(forward.new)) == (
        7,
        slice(0, 1),
        slice(1, 4),
    )
    assert (backward.start, backward.local(backward.known)) == (1, slice(3, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 1, 0), "depth: 0; want >= 1"),
        ((9, 1, 1, 0), "window: 1; want >= 2"),
        ((9, 4, 0, 0), "overlap: 0; want 1..3"),
        ((9, 4, 4, 0), "overlap: 4; want 1..3"),
        ((9, 4, 1, 9), "start: 9; want 0..8"),
        ((9, 4, 1, -1), "start: -1; want 0..8"),
    ],
)
def test_bad_input_names_the_key_and_the_range(
    arguments: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(MedpairError, match=message):
        plan_windows(*arguments)
