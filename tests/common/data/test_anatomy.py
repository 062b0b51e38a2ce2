"""Anatomical rules: planted defects are found and repaired, good anatomy is left alone."""

import dataclasses

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.anatomy import RULES, anatomy_report, check, clean_up
from common.data.labels import LabelSchema
from common.errors import MedpairError

SCHEMA = LabelSchema.from_dict(
    {
        "name": "toy",
        "modality": "MR",
        "slice_axis": "SI",
        "labels": [
            {
                "name": "organ",
                "id": 1,
                "colour": [1, 0, 0],
                "inside": "body",
                "components": 1,
                "fill_holes": True,
            },
            {"name": "kidney", "id": 2, "colour": [0, 1, 0], "inside": "body", "components": 2},
            {"name": "spots", "id": 3, "colour": [0, 0, 1], "inside": "body", "required": False},
            {
                "name": "body",
                "id": 4,
                "colour": [1, 1, 1],
                "components": 1,
                "fill_holes": True,
            },
        ],
        "container": {"name": "body", "support": "nonzero"},
    }
)


def good() -> np.ndarray:
    """A body with one organ, two kidneys and three spots; nothing touches the border."""
    label = np.zeros((20, 24, 22), np.uint8)
    label[2:18, 2:22, 2:20] = 4
    label[4:12, 4:12, 4:12] = 1
    label[4:8, 14:18, 4:8] = 2
    label[4:8, 14:18, 12:16] = 2
    label[14, 5, 5] = label[14, 9, 9] = label[15, 15, 15] = 3
    return label


def failed(label: np.ndarray) -> set[tuple[str, str]]:
    return {(r.rule, r.label) for r in check(label, SCHEMA) if not r.passed}


def organ_hole(label: np.ndarray) -> None:
    label[6:9, 6:9, 6:9] = 4


def empty_organ_hole(label: np.ndarray) -> None:
    label[6:9, 6:9, 6:9] = 0


def body_hole(label: np.ndarray) -> None:
    label[13:17, 10:18, 6:18] = 0


def third_kidney(label: np.ndarray) -> None:
    label[12:15, 14:17, 4:7] = 2


def organ_specks(label: np.ndarray) -> None:
    label[14:16:2, 4:20:2, 4:18:2] = 1


def organ_outside(label: np.ndarray) -> None:
    label[2:18, 2:22, 19] = 0
    label[6:9, 4:9, 20:22] = 1


DEFECTS = {
    organ_hole: {("holes", "organ")},
    empty_organ_hole: {("holes", "organ")},
    body_hole: {("holes", "body")},
    third_kidney: {("components", "kidney")},
    organ_specks: {("specks", "organ")},
    organ_outside: {("containment", "organ"), ("components", "organ")},
}


def test_good_anatomy_keeps_every_rule_and_is_left_alone() -> None:
    assert failed(good()) == set()
    np.testing.assert_array_equal(clean_up(good(), SCHEMA), good())


@pytest.mark.parametrize("plant", DEFECTS, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_found_and_repaired(plant) -> None:
    label = good()
    plant(label)
    before = label.copy()
    assert failed(label) == DEFECTS[plant]
    cleaned = clean_up(label, SCHEMA)
    assert failed(cleaned) == set()
    np.testing.assert_array_equal(label, before)


@pytest.mark.parametrize("plant", [organ_hole, empty_organ_hole, third_kidney, organ_specks])
def test_repair_restores_the_sound_map(plant) -> None:
    label = good()
    plant(label)
    expected = good()
    if plant is organ_specks:  # the spots that the specks overwrote are lost
        expected[14][label[14] == 1] = 4
    np.testing.assert_array_equal(clean_up(label, SCHEMA), expected)


def test_enclosed_background_between_labels_becomes_container() -> None:
    label = good()
    label[4:7, 12:14, 4:7] = 0  # between the organ and a kidney, walled by body, organ and kidney
    assert (clean_up(label, SCHEMA) == good()).all()


def test_a_missing_label_fails_only_where_it_is_required() -> None:
    label = good()
    label[label == 3] = 4
    assert failed(label) == set()
    label[label == 2] = 4
    assert failed(label) == {("present", "kidney")}


def test_a_dropped_piece_goes_to_the_label_around_it() -> None:
    label = good()
    label[5, 15, 5] = 1  # a speck of organ inside a kidney
    assert clean_up(label, SCHEMA)[5, 15, 5] == 2


def test_labels_without_an_allowance_keep_their_specks() -> None:
    label = good()
    label[16, 3:21:2, 3:19:2] = 3
    np.testing.assert_array_equal(clean_up(label, SCHEMA), label)


def test_the_largest_pieces_stay() -> None:
    label = good()
    label[12:17, 14:19, 12:17] = 2  # larger than either kidney
    cleaned = clean_up(label, SCHEMA)
    assert (cleaned[12:17, 14:19, 12:17] == 2).all()
    assert (cleaned == 2).sum() == 5**3 + 4**3


def test_an_allowance_of_the_container_counts_pieces_of_its_support() -> None:
    label = good()
    label[10:13] = 0  # cuts the body in two
    assert ("containment", "spots") in failed(label)
    two = tuple(
        dataclasses.replace(m, components=2 if m.id == 4 else m.components) for m in SCHEMA.labels
    )
    two_bodies = dataclasses.replace(SCHEMA, labels=two)
    assert "containment" not in {r.rule for r in check(label, two_bodies) if not r.passed}


def test_a_schema_without_container_still_counts_pieces() -> None:
    bare = dataclasses.replace(
        SCHEMA,
        container=None,
        labels=tuple(dataclasses.replace(item, inside=None) for item in SCHEMA.labels),
    )
    label = good()
    third_kidney(label)
    assert {r.rule for r in check(label, bare) if not r.passed} == {"components"}
    assert (clean_up(label, bare) == good()).all()


def test_an_empty_map_stays_empty() -> None:
    empty = np.zeros((4, 5, 6), np.uint8)
    assert not clean_up(empty, SCHEMA).any()
    assert failed(empty) == {("present", name) for name in ("organ", "kidney", "body")}


@given(hnp.arrays(np.uint8, (5, 6, 7), elements=st.integers(0, 4)))
@settings(max_examples=60, deadline=None)
def test_clean_up_is_idempotent_and_keeps_its_promises(label: np.ndarray) -> None:
    cleaned = clean_up(label, SCHEMA)
    np.testing.assert_array_equal(clean_up(cleaned, SCHEMA), cleaned)
    broken = {r.rule for r in check(cleaned, SCHEMA) if not r.passed}
    assert broken <= {"present"}
    worst = [r.seen for r in check(cleaned, SCHEMA) if r.rule in ("specks", "holes", "containment")]
    assert sum(worst) == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rules_do_not_depend_on_orientation(axis: int) -> None:
    label = good()
    third_kidney(label)
    body_hole(label)
    assert failed(np.flip(label, axis)) == failed(label) == failed(label.transpose(2, 0, 1))


def test_report_counts_the_share_that_passes() -> None:
    bad = good()
    third_kidney(bad)
    report = anatomy_report([good(), bad, good(), good()], SCHEMA)
    assert report["n"] == 4
    assert report["all"] == 0.75
    assert report["rules"] == {rule: 0.75 if rule == "components" else 1.0 for rule in RULES}
    assert report["labels"]["kidney"]["components"] == {"share": 0.75, "worst": 3.0}
    assert report["labels"]["kidney"]["present"] == {"share": 1.0, "worst": 128.0}
    assert "components" not in report["labels"]["spots"]


def test_bad_maps_are_refused() -> None:
    with pytest.raises(MedpairError, match=r"id 9, 0\.\.4 of schema 'toy' wanted"):
        check(np.full((2, 2, 2), 9, np.uint8), SCHEMA)
    with pytest.raises(MedpairError, match=r"shape \(2, 2\) of uint8"):
        clean_up(np.zeros((2, 2), np.uint8), SCHEMA)
    with pytest.raises(MedpairError, match="of float32"):
        clean_up(np.zeros((2, 2, 2), np.float32), SCHEMA)
    with pytest.raises(MedpairError, match="0 label maps"):
        anatomy_report([], SCHEMA)
