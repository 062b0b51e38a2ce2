"""Geometry of structures against results known beforehand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from common.data.labels import load_schema
from common.errors import MedpairError
from gem3d import structures as st

SCHEMA = load_schema("brats3")
SHAPE = (14, 16, 18)
angles = some.tuples(*[some.floats(-180, 180)] * 3)
spacings = some.tuples(*[some.floats(0.5, 6)] * 3)


def ball(radius: float, spacing: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
    return st.sphere((33, 33, 33), (16, 16, 16), radius, spacing)


def block(low: tuple[int, int, int], high: tuple[int, int, int], identity: int = 4) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = identity
    return label


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))])
def test_a_quarter_turn_about_an_axis_is_numpys(axis: int, plane: tuple[int, int]) -> None:
    label = np.random.default_rng(0).integers(0, 5, (9, 9, 9)).astype(np.uint8)
    degrees = [0.0, 0.0, 0.0]
    degrees[axis] = 90
    pull = st.pull_of(st.rotation(degrees), (2, 2, 2))
    turned = st.warp_map(label, pull, np.array([4.0, 4, 4]), 5)
    assert (turned == np.rot90(label, 1, plane)).all()


def test_a_quarter_turn_keeps_lengths_in_mm() -> None:
    """With voxels of 1 x 2 mm a bar of 12 x 4 mm becomes one of 4 x 12 mm."""
    label = np.zeros((5, 24, 16), np.uint8)
    label[:, 6:18, 7:9] = 1
    spacing = (1.0, 1.0, 2.0)
    pull = st.pull_of(st.rotation((90, 0, 0)), spacing)
    turned = st.warp_map(label, pull, np.array([2, 11.5, 7.5]), 2)
    extent = [int(turned.any(axis=axes).sum()) for axes in ((0, 2), (0, 1))]
    assert extent == [4, 6]


def test_a_map_turns_about_the_voxel_that_is_named() -> None:
    """A quarter turn about D: what lies (a, b) from the voxel comes to (-b, a)."""
    label, about = np.zeros((5, 21, 21), np.uint8), np.array([2.0, 7, 12])
    label[1:4, 7:10, 14:17] = 1  # from (0, 2) to (2, 4) away
    turned = st.warp_map(label, st.pull_of(st.rotation((90, 0, 0)), (1, 1, 1)), about, 2)
    assert np.argwhere(turned).min(axis=0).tolist() == [1, 7 - 4, 12]
    assert np.argwhere(turned).max(axis=0).tolist() == [3, 7 - 2, 12 + 2]


@given(angles)
@settings(max_examples=50, deadline=None)
def test_rotations_keep_lengths_and_hands(degrees: tuple[float, float, float]) -> None:
    push = st.rotation(degrees)
    np.testing.assert_allclose(push @ push.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(push) == pytest.approx(1)


@given(angles, spacings)
@settings(max_examples=50, deadline=None)
def test_a_pull_undoes_its_push_in_mm(
    degrees: tuple[float, float, float], spacing: tuple[float, float, float]
) -> None:
    push, width = st.rotation(degrees), np.array(spacing)
    voxel = np.array([3.0, -2, 5])
    np.testing.assert_allclose(
        push @ (width * (st.pull_of(push, spacing) @ voxel)), width * voxel, atol=1e-9
    )


@pytest.mark.parametrize("about", [(6.5, 7.5, 8.5), (2.0, 11.0, 4.0)])
def test_scaling_leaves_the_voxel_it_is_about(about: tuple[float, float, float]) -> None:
    """A block that reaches 3 voxels to each side of a place reaches 6 after doubling."""
    centre = np.array(about)
    low, high = np.ceil(centre - 1.5).astype(int), np.floor(centre + 1.5).astype(int) + 1
    label = block(tuple(low), tuple(high))
    patch = st.turned(st.cut(label, label > 0), np.eye(3) / 2, centre, 5)
    places = np.argwhere(patch.label) + np.array(patch.first)
    np.testing.assert_allclose(places.mean(axis=0), centre, atol=1e-9)
    size = np.array(high) - np.array(low)
    assert (abs(np.ptp(places, axis=0) + 1 - 2 * size) <= 1).all()


def test_a_turned_structure_has_room_beyond_the_grid() -> None:
    label = block((0, 0, 0), (2, 16, 2))
    pull = st.pull_of(st.rotation((90, 0, 0)), (1, 1, 1))
    patch = st.turned(st.cut(label, label > 0), pull, np.array([0.5, 7.5, 0.5]), 5)
    assert (patch.label > 0).sum() == (label > 0).sum()
    assert patch.first[2] < 0


def test_a_pieces_voxel_selects_that_piece() -> None:
    label = block((1, 1, 1), (4, 4, 4)) + block((8, 8, 8), (10, 10, 10))
    assert st.select(label, [4], (8, 9, 8)).sum() == 8
    assert st.select(label, [4]).sum() == 27 + 8
    for at in ((0, 0, 0), (99, 0, 0), (-6, -6, -8)):
        with pytest.raises(MedpairError, match="does not show the label"):
            st.select(label, [4], at)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.5)])
def test_growing_one_voxel_makes_a_ball_in_mm(spacing: tuple[float, float, float]) -> None:
    label = np.zeros((33, 33, 33), np.uint8)
    label[16, 16, 16] = 3
    grown = st.dilated(label, label > 0, np.ones(label.shape, bool), 5, spacing)
    assert ((grown == 3) == ball(5, spacing)).all()


def test_growth_stops_at_what_is_not_free() -> None:
    label = block((4, 4, 4), (8, 8, 8))
    free = np.zeros(SHAPE, bool)
    free[:, :, 8] = True
    grown = st.dilated(label, label > 0, free, 3, (1, 1, 1))
    assert ((grown != label) <= free).all()
    assert (grown != label).any()


@pytest.mark.parametrize("radius", [6, 8])
def test_erosion_undoes_growth_of_a_ball(radius: int) -> None:
    label = ball(radius).astype(np.uint8)
    grown = st.dilated(label, label > 0, np.ones(label.shape, bool), 4, (1, 1, 1)) > 0
    assert (grown <= ball(radius + 4)).all()
    back = st.eroded(grown, 4, (1, 1, 1))
    assert ((label > 0) <= back).all()
    assert back.sum() <= ball(radius + 0.8).sum()


def test_erosion_takes_layers_by_mm_but_not_from_the_grids_faces() -> None:
    where = block((0, 4, 4), (6, 12, 14)) > 0
    kept = np.argwhere(st.eroded(where, 2, (1, 2, 1)))
    assert kept.min(axis=0).tolist() == [0, 5, 6]
    assert kept.max(axis=0).tolist() == [3, 10, 11]
    assert st.eroded(np.ones(SHAPE, bool), 5, (1, 1, 1)).all()


def test_vacated_voxels_get_the_nearest_label_in_mm() -> None:
    label = np.zeros((3, 3, 9), np.uint8)
    label[..., 1:3], label[..., 3:6], label[..., 6:8] = 1, 3, 4
    filled = st.fill_with_nearest(label, label == 3, [3], (1, 1, 1))
    assert filled[0, 0].tolist()[:4] == [0, 1, 1, 1]
    assert filled[0, 0].tolist()[5:] == [4, 4, 4, 0]
    alone = np.where(label == 3, label, 0).astype(np.uint8)
    assert not st.fill_with_nearest(alone, alone == 3, [3], (1, 1, 1)).any()


def test_laying_down_refuses_more_than_may_be_lost() -> None:
    ground, patch = block((2, 2, 2), (8, 8, 8)), st.Patch(np.ones((4, 2, 2), np.uint8), (5, 3, 3))
    free = ground == 4
    with pytest.raises(st.ImpossibleError, match="4 of 16 voxels would lie on background, want"):
        st.lay(ground, patch, free, 0.2, SCHEMA)
    laid, at, lost = st.lay(ground, patch, free, 0.25, SCHEMA)
    assert (lost, int((laid == 1).sum())) == (4, 12)
    assert (at == (laid == 1)).all()
    with pytest.raises(st.ImpossibleError, match="outside of the grid"):
        st.lay(ground, patch.moved((8, 0, 0)), free, 0.5, SCHEMA)
    with pytest.raises(st.ImpossibleError, match="no voxel of edema would remain"):
        st.lay(ground, patch.moved((8, 0, 0)), free, 1, SCHEMA)


def test_surroundings_follow_the_schema() -> None:
    assert st.surroundings(("edema", "enhancing"), SCHEMA) == ("brain",)
    assert st.surroundings(("brain",), SCHEMA) == ("brain",)
    assert st.support_ids(("brain",), SCHEMA) == [1, 2, 3, 4]
    assert st.support_ids(("background",), SCHEMA) == []
