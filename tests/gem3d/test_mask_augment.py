"""Mask augmentation: what it may never do, over many seeds, and that its record tells all."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from monai.bundle import ConfigParser

from common.data.anatomy import check
from common.data.labels import LabelSchema, load_schema
from common.data.phantom import make_phantom, phantom_spacing
from common.errors import MedpairError
from gem3d.mask_augment import MaskAugmentation, StructureRanges, replay
from gem3d.operations import Frame
from gem3d.paths import bundle_root
from gem3d.structure_operations import Reshape
from gem3d.structures import centroid

PRESETS = ("brats3", "abdomen4", "lesion1", "brain4")
SIZES = {"brain4": (26, 22, 20)}
SIZE = (20, 26, 22)
seeds = some.integers(0, 2**31)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def phantom(name: str, seed: int) -> tuple[LabelSchema, np.ndarray, tuple[float, float, float]]:
    schema, size = load_schema(name), SIZES.get(name, SIZE)
    return schema, make_phantom(schema, size, seed)[1], phantom_spacing(schema, size)


@cache
def preset(name: str) -> MaskAugmentation:
    path = Path(bundle_root()) / "mask_augmentation" / f"{name}.yaml"
    parser = ConfigParser(ConfigParser.load_config_file(str(path)))
    return parser.get_parsed_content("mask_augmentation")


def only(*structures: StructureRanges, tries: int = 20) -> MaskAugmentation:
    return MaskAugmentation(flip=0, rotate_degrees=0, structures=structures, tries=tries)


@pytest.mark.parametrize("name", PRESETS)
@given(seed=seeds, who=some.integers(0, 3))
@settings(max_examples=5, deadline=None)
def test_presets_keep_the_anatomy_and_replay_exactly(name: str, seed: int, who: int) -> None:
    schema, label, spacing = phantom(name, who)
    before = label.copy()
    made = preset(name)(label, schema, spacing, generator(seed))
    assert (label == before).all()
    assert made.label.dtype == np.uint8
    broken = {(r.rule, r.label) for r in check(made.label, schema) if not r.passed}
    assert not broken - {(r.rule, r.label) for r in check(label, schema) if not r.passed}
    assert set(np.unique(made.label)) == set(np.unique(label))
    record = json.loads(json.dumps(made.record))
    assert (replay(label, record, schema) == made.label).all()
    assert record["changed_voxels"] == (made.label != label).sum()
    again = preset(name)(label, schema, spacing, generator(seed))
    assert again.record == made.record


@given(seed=seeds, who=some.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_structures_stay_inside_and_others_stay_as_they_are(seed: int, who: int) -> None:
    schema, label, spacing = phantom("brain4", who)
    ranges = StructureRanges(
        ["csf"],
        shift_mm=15,
        scale=(0.7, 1.4),
        grow_mm=(-8, 8),
        over=["white_matter", "brain"],
        fill="surrounding",
        clip=0.2,
    )
    made = only(ranges)(label, schema, spacing, generator(seed))
    csf, free = schema.id_of("csf"), [schema.id_of("white_matter"), schema.id_of("brain")]
    new = (made.label == csf) & (label != csf)
    assert np.isin(label[new], free).all()
    vacated = (label == csf) & (made.label != csf)
    assert (made.label[vacated] > 0).all()
    rest = ~new & ~vacated
    assert (made.label[rest] == label[rest]).all()


@given(seed=seeds, who=some.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_a_tumour_moves_as_one_towards_the_middle_of_the_brain(seed: int, who: int) -> None:
    schema, label, spacing = phantom("brats3", who)
    ranges = StructureRanges(["WT"], translate_mm=(0, 60))
    made = only(ranges)(label, schema, spacing, generator(seed))
    counts = [np.bincount(m.ravel(), minlength=5).tolist() for m in (label, made.label)]
    assert counts[0] == counts[1]
    middle = centroid(label > 0)
    ways = [centroid(m == i) for i in (1, 2, 3) for m in (label, made.label)]
    shifts = [ways[k + 1] - ways[k] for k in (0, 2, 4)]
    np.testing.assert_allclose(shifts[1:], shifts[:1] * 2, atol=1e-9)
    distances = [
        float(np.linalg.norm((centroid(np.isin(m, [1, 2, 3])) - middle) * spacing))
        for m in (label, made.label)
    ]
    slack = float(np.linalg.norm(spacing)) / 2  # whole voxels
    assert distances[1] <= distances[0] + slack
    (moved,) = [o for s in made.record["steps"] for o in s["operations"]] or [{"mm": [0, 0, 0]}]
    assert np.linalg.norm(moved["mm"]) <= min(60, distances[0]) + 1e-9


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 2.0)])
def test_the_whole_range_in_mm_is_drawn_and_it_ends_in_the_middle(
    spacing: tuple[float, float, float],
) -> None:
    schema = load_schema("lesion1")
    label = np.full((31, 31, 101), 2, np.uint8)
    label[15, 15, 3] = 1
    frame, ranges = Frame(schema, spacing), StructureRanges(["lesion"], translate_mm=(10, 40))

    def way(u: float) -> list[float]:
        (move,), _ = ranges.propose(label, [0, 0, u, 0.5, 0.5, 0.5], frame)
        assert isinstance(move, Reshape)
        return list(move.mm)

    for u in (0.0, 0.25, 1.0):
        # the centre of mass of all that lies in the head is its middle voxel
        np.testing.assert_allclose(way(u), [0, 0, 10 + 30 * u], atol=1e-2)
    far = StructureRanges(["lesion"], translate_mm=(0, 500))
    (move,), _ = far.propose(label, [0, 0, 1.0, 0.5, 0.5, 0.5], frame)
    assert isinstance(move, Reshape)
    np.testing.assert_allclose(move.mm, [0, 0, 47 * spacing[2]], atol=1e-2)


@pytest.mark.parametrize("name", ["brats3", "lesion1"])
def test_no_tumour_is_said_and_the_rest_is_done(name: str) -> None:
    schema, label, spacing = phantom(name, 0)
    healthy = np.where(label > 0, schema.container_id or 0, 0).astype(np.uint8)
    made = preset(name)(healthy, schema, spacing, generator(3))
    assert made.record["steps"][-1]["said"].startswith("no voxel of ")
    assert made.record["steps"][1]["operations"]
    assert (replay(healthy, made.record, schema) == made.label).all()
    still = only(*preset(name).structures)(healthy, schema, spacing, generator(3))
    assert (still.label == healthy).all()


def test_impossible_draws_are_counted_and_the_step_left_out() -> None:
    schema, label, spacing = phantom("abdomen4", 0)
    ranges = StructureRanges(["liver"], scale=(2.5, 3))
    made = only(ranges, tries=3)(label, schema, spacing, generator(0))
    step = made.record["steps"][-1]
    assert (made.label == label).all()
    assert len(step["rejected"]) == 3
    assert "left out: none of 3 tries fits" in step["said"]
    assert all("would lie on" in tried["why"] for tried in step["rejected"])


def test_a_rejected_draw_is_followed_by_one_that_fits() -> None:
    schema, label, spacing = phantom("brats3", 1)
    ranges = StructureRanges(["WT"], shift_mm=100)
    steps = [only(ranges)(label, schema, spacing, generator(s)).record["steps"][-1] for s in (0, 1)]
    assert any(step["rejected"] and step["operations"] for step in steps)


def test_a_draw_that_breaks_a_rule_the_mask_kept_is_rejected() -> None:
    """Ventricles may take white matter, but not cut it in two."""
    schema = load_schema("brain4")
    label = np.full((16, 16, 16), schema.id_of("brain"), np.uint8)
    label[2:6, 2:14, 2:14] = label[10:14, 2:14, 2:14] = schema.id_of("white_matter")
    label[6:10, 7:9, 7:9] = schema.id_of("white_matter")  # the bridge
    label[7:9, 2:7, 4:12] = schema.id_of("csf")
    ranges = StructureRanges(["csf"], shift_mm=6, over=["white_matter", "brain"], fill="brain")
    reasons = []
    for seed in range(12):
        made = only(ranges, tries=10)(label, schema, (1, 1, 1), generator(seed))
        rules = {(r.rule, r.label): r.passed for r in check(made.label, schema)}
        assert rules["components", "white_matter"]
        reasons += [tried["why"] for tried in made.record["steps"][-1]["rejected"]]
    assert "breaks components white_matter" in reasons


def test_rotation_that_cuts_the_body_is_rejected() -> None:
    schema = load_schema("lesion1")
    label = np.zeros((12, 60, 12), np.uint8)
    label[1:-1, 1:-1, 1:-1] = 2
    label[5, 30, 5] = 1
    augment = MaskAugmentation(flip=0, rotate_degrees=90, tries=2)
    step = augment(label, schema, (1, 1, 1), generator(0)).record["steps"][1]
    assert any("labelled volume changes" in tried["why"] for tried in step["rejected"])


def test_flips_come_half_of_the_time_and_take_the_container_along() -> None:
    schema, label, spacing = phantom("lesion1", 0)
    augment = MaskAugmentation(flip=0.5, rotate_degrees=0, tries=1)
    made = [augment(label, schema, spacing, generator(s)) for s in range(40)]
    flipped = [m for m in made if m.record["steps"][0]["operations"]]
    assert 10 < len(flipped) < 30
    assert all((m.label == label[..., ::-1]).all() for m in flipped)


def test_draws_of_a_step_do_not_hang_on_those_before() -> None:
    """A mask that rejects more draws the same rotation, and the next volume stays the same."""
    schema, label, spacing = phantom("brats3", 1)
    wide, narrow = (StructureRanges(["WT"], shift_mm=mm) for mm in (100, 1))
    ends, steps = [], []
    for ranges in (wide, narrow):
        source = generator(1)
        augment = MaskAugmentation(structures=[ranges, narrow])
        steps.append(augment(label, schema, spacing, source).record["steps"])
        ends.append(torch.rand(1, generator=source).item())
    assert steps[0][:2] == steps[1][:2]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"flip": 1.5}, r"mask_augmentation#flip: 1.5, want a number 0..1"),
        ({"rotate_degrees": float("nan")}, "mask_augmentation#rotate_degrees: nan"),
        ({"tries": 0}, "mask_augmentation#tries: 0, want a number 1..10000"),
    ],
)
def test_wrong_settings_name_their_key(settings_: dict[str, float], message: str) -> None:
    with pytest.raises(MedpairError, match=message):
        MaskAugmentation(**settings_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ranges",
    [
        {"translate_mm": (9, 3)},
        {"translate_mm": 60},
        {"scale": (0, 1)},
        {"grow_mm": ("a", 1)},
        {"shift_mm": -1},
        {"clip": 2},
    ],
)
def test_wrong_ranges_name_their_key(ranges: dict[str, object]) -> None:
    with pytest.raises(MedpairError, match=f"mask_augmentation#{next(iter(ranges))}: "):
        StructureRanges(["lesion"], **ranges)  # type: ignore[arg-type]


def test_labels_masks_and_records_must_fit_the_schema() -> None:
    schema, label, spacing = phantom("lesion1", 0)
    with pytest.raises(MedpairError, match="no label 'WT'"):
        preset("brats3")(label, schema, spacing, generator(0))
    with pytest.raises(MedpairError, match="three lengths in mm above 0"):
        preset("lesion1")(label, schema, (1, 0, 1), generator(0))
    with pytest.raises(MedpairError, match=r"id 9, 0\.\.2 of schema"):
        preset("lesion1")(label + np.uint8(7), schema, spacing, generator(0))
    record = preset("lesion1")(label, schema, spacing, generator(0)).record
    with pytest.raises(MedpairError, match="give the record of this mask"):
        replay(label[1:], record, schema)
