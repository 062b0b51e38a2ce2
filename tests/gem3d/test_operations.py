"""Operations against analytic results: centroids, volumes, involutions, and their limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from common.data.labels import load_schema
from gem3d.operation_lists import apply_operations, read_operations
from gem3d.operations import AddSphere, Flip, Frame
from gem3d.structure_operations import Dilate, Erode, Move, Remove, Reshape, Rotate, Scale
from gem3d.structures import ImpossibleError, centroid, sphere

BRATS = load_schema("brats3")
SHAPE = (20, 28, 24)
TUMOUR = ("edema", "non_enhancing", "enhancing")
spacings = some.tuples(*[some.sampled_from([0.5, 1.0, 2.0, 3.5])] * 3)


def tumour() -> np.ndarray:
    """A brain that leaves 2 voxels of background, with a tumour of three shells in its middle."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:-2, 2:-2, 2:-2] = 4
    middle = [(n - 1) / 2 for n in SHAPE]
    for identity, radius in ((1, 4.6), (3, 3.2), (2, 1.8)):
        label[sphere(SHAPE, middle, radius, (1, 1, 1))] = identity
    return label


def frame(spacing: tuple[float, float, float] = (1, 1, 1)) -> Frame:
    return Frame(BRATS, spacing)


def counts(label: np.ndarray) -> list[int]:
    return np.bincount(label.ravel(), minlength=5).tolist()


@given(spacings, some.tuples(*[some.integers(-2, 2)] * 3))
@settings(max_examples=40, deadline=None)
def test_a_move_by_whole_voxels_is_exact(
    spacing: tuple[float, float, float], voxels: tuple[int, int, int]
) -> None:
    label = tumour()
    mm = tuple(v * s for v, s in zip(voxels, spacing, strict=True))
    moved, applied = Move(label=TUMOUR, mm=mm).apply(label, frame(spacing))
    assert counts(moved) == counts(label)
    for identity in (1, 2, 3):
        way = centroid(moved == identity) - centroid(label == identity)
        np.testing.assert_allclose(way * spacing, mm, atol=1e-9)
    if any(voxels):
        assert applied["shift_mm"] == pytest.approx(mm)


def test_a_move_between_voxels_goes_to_the_nearest_and_says_so() -> None:
    label = tumour()
    moved, applied = Move(label=TUMOUR, mm=(3.5, -1.4, 0.4)).apply(label, frame((2, 1, 1)))
    way = centroid(np.isin(moved, [1, 2, 3])) - centroid(np.isin(label, [1, 2, 3]))
    assert way.tolist() == pytest.approx([2, -1, 0])
    assert applied["shift_mm"] == [4, -1, 0]
    still, applied = Move(label=TUMOUR, mm=(0.9, 0, 0)).apply(label, frame((2, 1, 1)))
    assert (still == label).all()
    assert applied["said"] == "too little to change a voxel of 2 x 1 x 1 mm"


def test_a_move_never_overwrites_what_it_may_not() -> None:
    label = tumour()
    with pytest.raises(ImpossibleError, match="would lie on background"):
        Move(label=TUMOUR, mm=(5, 0, 0)).apply(label, frame())
    with pytest.raises(ImpossibleError, match="would lie on edema"):
        Move(label=("enhancing",), mm=(3, 0, 0)).apply(label, frame())
    clipped, applied = Move(label=TUMOUR, mm=(5, 0, 0), clip=0.3).apply(label, frame())
    assert ((clipped == 0) == (label == 0)).all()
    lost = np.isin(label, [1, 2, 3]).sum() - np.isin(clipped, [1, 2, 3]).sum()
    assert applied["clipped_voxels"] == lost > 0
    over = Move(label=("enhancing", "non_enhancing"), mm=(1, 0, 0), over=("edema",), fill="edema")
    moved, _ = over.apply(label, frame())
    assert counts(moved) == counts(label)
    assert ((moved == 4) == (label == 4)).all()


@pytest.mark.parametrize("factor", [0.8, 1.3])
def test_scaling_changes_volume_by_the_cube_about_the_centroid(factor: float) -> None:
    spacing = (1.0, 0.5, 0.5)
    label = np.zeros((30, 60, 60), np.uint8)
    label[1:-1, 1:-1, 1:-1] = 4
    label[sphere(label.shape, (14, 30, 31), 8, spacing)] = 1
    scaled, applied = Scale(label=("edema",), factor=factor).apply(label, frame(spacing))
    ratio = (scaled == 1).sum() / (label == 1).sum()
    assert ratio == pytest.approx(factor**3, rel=0.03)
    assert centroid(scaled == 1).tolist() == pytest.approx([14, 30, 31], abs=0.02)
    matrix = np.array(applied["matrix"])
    np.testing.assert_allclose(matrix @ [14, 30, 31, 1], [14, 30, 31, 1], atol=1e-9)
    np.testing.assert_allclose(np.diag(matrix)[:3], 1 / factor)


def test_scaling_refuses_to_leave_the_brain_or_to_vanish() -> None:
    with pytest.raises(ImpossibleError, match="would lie on background"):
        Scale(label=TUMOUR, factor=3).apply(tumour(), frame())
    with pytest.raises(ImpossibleError, match=r"no voxel of .*non_enhancing.* would remain"):
        Scale(label=TUMOUR, factor=0.1).apply(tumour(), frame())


def test_flips_exchange_sides_and_undo_themselves() -> None:
    label = np.random.default_rng(0).integers(0, 8, SHAPE).astype(np.uint8)
    thorax = Frame(load_schema("thorax7"), (1, 1, 1))
    flipped, _ = Flip().apply(label, thorax)
    left, right = thorax.schema.id_of("left_lung"), thorax.schema.id_of("right_lung")
    assert ((flipped == left) == (label == right)[..., ::-1]).all()
    assert (Flip().apply(flipped, thorax)[0] == label).all()


def test_no_rotation_is_no_change_and_small_ones_keep_volumes() -> None:
    label = tumour()
    assert (Rotate(degrees=(0, 0, 0)).apply(label, frame())[0] == label).all()
    turned, applied = Rotate(degrees=(2.5, -2.5, 2.5)).apply(label, frame((2, 1, 1)))
    assert counts(turned) == pytest.approx(counts(label), rel=0.1)
    assert np.array(applied["matrix"]).shape == (4, 4)
    alone, _ = Rotate(label=TUMOUR, degrees=(0, 90, 0)).apply(label, frame())
    assert (alone == label).mean() > 0.99
    assert ((alone == 0) == (label == 0)).all()


def test_growth_stays_inside_and_is_named_per_label() -> None:
    label = tumour()
    grown, applied = Dilate(label=TUMOUR, mm=30).apply(label, frame())
    assert ((grown == 0) == (label == 0)).all()
    assert not (grown == 4).any()
    assert ((grown == 3) == (label == 3)).all()  # the outer shell is the nearest to all brain
    assert applied["grown_voxels"] == (label == 4).sum()


def test_erosion_leaves_the_surroundings_behind_and_never_nothing() -> None:
    label = tumour()
    eroded, applied = Erode(label=TUMOUR, mm=1).apply(label, frame())
    lost = np.isin(label, [1, 2, 3]) & ~np.isin(eroded, [1, 2, 3])
    assert applied["grown_voxels"] == -lost.sum()
    assert (eroded[lost] == 4).all()
    assert (eroded[~lost] == label[~lost]).all()
    with pytest.raises(ImpossibleError, match=r"no voxel of edema.* would remain"):
        Erode(label=TUMOUR, mm=3).apply(label, frame())
    same, applied = Erode(label=TUMOUR, mm=1).apply(label, frame((2, 2, 2)))
    assert (same == label).all()
    assert applied["said"] == "too little to change a voxel of 2 x 2 x 2 mm"


def test_removal_fills_by_schema_by_name_or_by_what_is_around() -> None:
    label = tumour()
    assert counts(Remove(label=TUMOUR).apply(label, frame())[0])[1:4] == [0, 0, 0]
    by_name, _ = Remove(label=("enhancing",), fill="edema").apply(label, frame())
    assert counts(by_name)[1] == counts(label)[1] + counts(label)[3]
    around, _ = Remove(label=("enhancing",), fill="surrounding").apply(label, frame())
    assert set(around[label == 3].tolist()) == {1, 2}
    assert (around[label != 3] == label[label != 3]).all()


def test_a_voxel_names_the_piece_that_is_meant() -> None:
    label = np.full(SHAPE, 4, np.uint8)
    label[2:4, 2:4, 2:4], label[10:13, 10:13, 10:13] = 1, 1
    removed, _ = Remove(label=("edema",), at=(11, 11, 11)).apply(label, frame())
    assert counts(removed)[1] == 8


@given(some.tuples(*[some.floats(0, 1)] * 3), some.floats(1, 9), spacings)
@settings(max_examples=30, deadline=None)
def test_a_sphere_is_a_ball_in_mm_where_it_may_be(
    place: tuple[float, float, float], radius: float, spacing: tuple[float, float, float]
) -> None:
    label = tumour()
    operation = AddSphere(label=("enhancing",), radius_mm=radius, centre_fraction=place)
    try:
        added, applied = operation.apply(label, frame(spacing))
    except ImpossibleError:
        added, applied = label, {"added_voxels": 0}
    centre = np.array(place) * (np.array(SHAPE) - 1)
    distance = np.linalg.norm((np.indices(SHAPE).T - centre) * spacing, axis=-1).T
    wanted = (distance < radius) & (label == 4)
    different = added != label
    assert (wanted & ~different).sum() <= 4  # rounding on the ball's very surface
    assert (different & ~((distance < radius + 1e-3) & (label == 4))).sum() == 0
    assert (added[different] == 3).all()
    assert applied["added_voxels"] == different.sum()


@pytest.mark.parametrize("kind", [Remove, Erode, Dilate, Move, Scale, Rotate])
def test_nothing_to_work_on_is_said_and_no_error(kind: type) -> None:
    label = np.where(tumour() > 0, 4, 0).astype(np.uint8)
    more = {Erode: {"mm": 1}, Dilate: {"mm": 1}, Move: {"mm": (1, 0, 0)}, Scale: {"factor": 2}}
    extra = more.get(kind, {"degrees": (0, 0, 9)} if kind is Rotate else {})
    same, applied = kind(label=TUMOUR, **extra).apply(label, frame())
    assert (same == label).all()
    assert applied == {"said": "no voxel of edema, non_enhancing, enhancing"}


def test_operations_read_back_equal_and_do_not_touch_their_input() -> None:
    listed = [
        Move(label=TUMOUR, mm=(0.1, 1 / 3, 2.0), at=(9, 13, 11), clip=0.5, fill="surrounding"),
        Scale(label=("edema",), factor=1.1, over=("brain", "enhancing"), clip=0.5),
        Rotate(degrees=(1, 2, 3)),
        AddSphere(label=("enhancing",), radius_mm=2, centre=(10, 10, 10)),
        Flip(),
    ]
    again = read_operations([o.to_dict() for o in listed], BRATS, "here")
    assert list(again) == listed
    label = tumour()
    before = label.copy()
    first, second = (apply_operations(label, o, frame())[0] for o in (listed, again))
    assert (label == before).all()
    assert (first == second).all()
    assert first is not label


def test_tissue_that_a_change_only_passes_stays() -> None:
    """Grown and moved at once, a structure takes what it ends on and nothing else."""
    label = np.where(tumour() > 0, 4, 0).astype(np.uint8)
    label[:, :, :12][label[:, :, :12] == 4] = 1  # left of the middle all is edema
    label[sphere(SHAPE, (9, 13, 13), 3, (1, 1, 1))] = 3
    reshaped, applied = Reshape(
        label=("enhancing",), factor=1.4, mm=(0, 0, 3), grow_mm=-1, over=("edema", "brain")
    ).apply(label, frame())
    different = reshaped != label
    new, vacated = (reshaped == 3) & (label != 3), (reshaped != 3) & (label == 3)
    assert (different == (new | vacated)).all()
    assert (reshaped[vacated] == 4).all()
    assert applied["shift_voxels"] == [0, 0, 3]
    assert applied["grown_voxels"] < 0


def test_reshape_equals_the_single_operations() -> None:
    label, many = tumour(), {"label": TUMOUR, "clip": 0.5}
    for single, values in (
        (Move(mm=(1.0, -2.0, 3.0), **many), {"mm": (1.0, -2.0, 3.0)}),
        (Scale(factor=1.2, **many), {"factor": 1.2}),
        (Dilate(mm=1.5, **many), {"grow_mm": 1.5}),
        (Erode(mm=1.0, **many), {"grow_mm": -1.0}),
    ):
        both = Reshape(**many, **values).apply(label, frame()), single.apply(label, frame())
        assert (both[0][0] == both[1][0]).all()
        assert both[0][1] == both[1][1]
        assert (both[0][0] != label).any()
