"""Edited masks: what a label file or a list of operations gives, and what is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from common.data.labels import load_schema
from common.data.phantom import make_phantom
from common.data.views import from_dhw, ras_affine
from common.errors import MedpairError
from common.io.nifti import write_volume
from gem3d.edits import read_edit
from gem3d.structures import centroid, sphere

SCHEMA = load_schema("lesion1")
SIZE, SPACING = (16, 20, 18), (4.0, 2.0, 3.0)
AFFINE = ras_affine(SIZE, SPACING, "SI")
ADD = {"op": "add_sphere", "label": "lesion", "centre": [8, 10, 9], "radius_mm": 7}


def head() -> np.ndarray:
    label = np.zeros(SIZE, np.uint8)
    label[1:-1, 1:-1, 1:-1] = 2
    label[sphere(SIZE, (6, 8, 7), 9, SPACING)] = 1
    return label


def write_label(path: Path, label: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    write_volume(path, from_dhw(label, "SI"), affine)
    return path


def write_yaml(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def refused(edit: Any) -> str:
    label = head()
    with pytest.raises(MedpairError) as caught:
        read_edit(edit, label, AFFINE, SCHEMA)
    assert (label == head()).all()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_drawn_file_is_the_edited_mask(tmp_path: Path) -> None:
    drawn = head()
    drawn[10:12, 3:5, 4:9] = 1
    path = write_label(tmp_path / "drawn.nii.gz", drawn)
    edit = read_edit(path, head(), AFFINE, SCHEMA)
    assert (edit.label == drawn).all()
    assert (edit.changed == (drawn != head())).all()
    assert edit.record["changed_voxels"] == 20
    assert edit.record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert edit.record["voxels_after"]["lesion"] == edit.record["voxels_before"]["lesion"] + 20


def test_a_drawn_file_may_lie_in_the_file_in_another_orientation(tmp_path: Path) -> None:
    drawn = head()
    drawn[10, 3, 4] = 1
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SIZE[2] - 1
    path = tmp_path / "las.nii.gz"
    write_volume(path, from_dhw(drawn, "SI")[::-1].astype(np.float32), AFFINE @ flip)
    assert (read_edit(str(path), head(), AFFINE, SCHEMA).label == drawn).all()


def test_operations_in_a_file_or_a_list_are_the_same(tmp_path: Path) -> None:
    listed = [{"op": "move", "label": "lesion", "mm": [4, -2, 3]}, ADD]
    path = write_yaml(tmp_path / "edit.yaml", listed)
    from_list, from_file = (read_edit(e, head(), AFFINE, SCHEMA) for e in (listed, path))
    assert (from_list.label == from_file.label).all()
    record = json.loads(json.dumps(from_file.record))
    assert record["file"] == "edit.yaml"
    assert record["applied"][0]["shift_mm"] == [4, -2, 3]
    assert (read_edit(record["operations"], head(), AFFINE, SCHEMA).label == from_list.label).all()


def test_mm_follow_the_grid_of_the_slices_not_of_the_file() -> None:
    """Brains are sliced along AP: D, H, W are anterior, superior, right."""
    schema, spacing = load_schema("brain4"), (5.0, 2.0, 1.0)
    size = (24, 30, 28)
    label = make_phantom(schema, size, 0)[1]
    edits = [{"op": "move", "label": "csf", "mm": [0, 4, 1], "clip": 1, "over": ["white_matter"]}]
    record = read_edit(edits, label, ras_affine(size, spacing, "AP"), schema).record
    assert record["applied"][0]["shift_voxels"] == [0, 2, 1]


def test_a_group_stands_for_its_labels() -> None:
    schema = load_schema("brats3")
    size = (16, 20, 18)
    label = make_phantom(schema, size, 0)[1]
    edit = read_edit([{"op": "remove", "label": "WT"}], label, AFFINE, schema)
    assert set(np.unique(edit.label)) == {0, 4}
    assert (edit.changed == np.isin(label, [1, 2, 3])).all()
    assert edit.record["operations"][0]["label"] == ["edema", "non_enhancing", "enhancing"]


def test_a_healthy_counterfactual_is_made_and_the_broken_rule_reported() -> None:
    edit = read_edit([{"op": "remove", "label": "lesion"}], head(), AFFINE, SCHEMA)
    assert not (edit.label == 1).any()
    assert edit.record["rules_broken"] == ["present lesion"]


def test_a_sphere_lies_where_it_was_asked_for() -> None:
    fraction = {k: v for k, v in ADD.items() if k != "centre"} | {
        "centre_fraction": [0.6, 0.5, 0.5]
    }
    for entry, place in ((ADD, [8, 10, 9]), (fraction, [9, 9.5, 8.5])):
        healthy = np.where(head() > 0, 2, 0).astype(np.uint8)
        edit = read_edit([entry], healthy, AFFINE, SCHEMA)
        assert centroid(edit.changed).tolist() == pytest.approx(place)
        volume = edit.changed.sum() * np.prod(SPACING)
        assert volume == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.15)


@pytest.mark.parametrize("kind", ["file", "list"])
def test_an_edit_that_changes_nothing_says_so(kind: str, tmp_path: Path) -> None:
    listed = [{"op": "move", "label": "lesion", "mm": [1, 0, 0]}]
    edit = write_label(tmp_path / "same.nii.gz", head()) if kind == "file" else listed
    made = read_edit(edit, head(), AFFINE, SCHEMA)
    assert not made.changed.any()
    wanted = "no voxel differs" if kind == "file" else "entry 1: too little to change a voxel of 4"
    assert made.record["said"].startswith(wanted)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    big = head()
    big[3, 3, 3] = 7
    other = AFFINE.copy()
    other[0, 3] += 9
    assert "labels.nii.gz: label ids 7 are outside schema lesion1 (wanted 0..2)" in refused(
        write_label(tmp_path / "labels.nii.gz", big)
    )
    message = refused(write_label(tmp_path / "size.nii.gz", head()[1:]))
    assert "size.nii.gz: a grid of 18x20x15 voxels of 3x2x4 mm" in message
    assert "want the mask's, 18x20x16 voxels of 3x2x4 mm" in message
    assert "draw on a copy" in refused(write_label(tmp_path / "moved.nii.gz", head(), other))
    soft = tmp_path / "soft.nii.gz"
    write_volume(soft, from_dhw(head(), "SI") * np.float32(0.5), AFFINE)
    assert "soft.nii.gz: " in (message := refused(soft))
    assert "no integers (for example 0.5)" in message


def test_paths_that_do_not_fit_are_named(tmp_path: Path) -> None:
    assert "gone.yaml: no such file" in refused(tmp_path / "gone.yaml")
    assert "gone.nii.gz: no such file" in refused(tmp_path / "gone.nii.gz")
    assert "edit.txt: wanted .nii.gz" in refused(tmp_path / "edit.txt")
    broken = tmp_path / "broken.yaml"
    broken.write_text("- {op: move, mm: [1,\n", encoding="utf-8")
    assert "broken.yaml: not YAML" in refused(broken)
    for content in ({"op": "flip"}, [], "flip", None):
        message = refused(write_yaml(tmp_path / "edit.yml", content))
        assert "edit.yml: " in message
        assert "want a list of operations such as" in message


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("flip", "'flip', want op: move, scale"),
        ({"op": "mvoe"}, "op 'mvoe', want op: move, scale"),
        ({"op": ["move"]}, "op ['move'], want op: move"),
        ({"op": "move", "label": "lesion"}, "(move): no mm, want"),
        ({"op": "move", "label": "lesoin", "mm": [1, 0, 0]}, "no label 'lesoin'; choose one of"),
        ({"op": "move", "label": "lesion", "mm": [1, 0]}, "mm: [1, 0], want three lengths in mm"),
        ({"op": "move", "label": "lesion", "mm": 5}, "mm: 5, want three lengths in mm [D, H, W]"),
        ({"op": "move", "label": "lesion", "mm": [2e3, 0, 0]}, "each -1000..1000"),
        ({"op": "move", "label": "head", "mm": [1, 0, 0]}, "'head' is what structures lie in"),
        ({"op": "move", "label": "lesion", "mm": [99, 0, 0]}, "lie on the outside of the grid"),
        ({"op": "move", "label": "lesion", "mm": [28, 0, 0]}, "lie on background, want at most 0%"),
        ({"op": "move", "label": "lesion", "mm": [4, 0, 0], "by": 1}, "unknown key 'by', want"),
        (
            {"op": "move", "label": "lesion", "mm": [4, 0, 0], "at": [0, 0, 0]},
            "at: voxel [0, 0, 0]",
        ),
        ({"op": "move", "label": "lesion", "mm": [4, 0, 0], "at": [0.5, 0, 0]}, "whole numbers"),
        ({"op": "scale", "label": "lesion", "factor": 0}, "factor: 0, want a number 0.1..10"),
        ({"op": "scale", "label": "lesion", "factor": True}, "factor: True, want a number"),
        ({"op": "scale", "label": "lesion", "factor": float("nan")}, "factor: nan, want a number"),
        ({"op": "erode", "label": "lesion", "mm": -2}, "mm: -2, want a number 0.001..1000"),
        ({"op": "erode", "label": "lesion", "mm": 50}, "no voxel of lesion would remain"),
        ({"op": "remove", "label": []}, "label: [], want a label's or group's name"),
        ({"op": "remove", "label": "lesion", "fill": "lesion"}, "'lesion' is the structure itself"),
        ({"op": "remove", "label": "lesion", "fill": "bone"}, "no label 'bone'"),
        ({"op": "rotate", "degrees": [0, 0, 270]}, "degrees: [0, 0, 270], want three angles"),
        (ADD | {"centre": [20, 3, 3]}, "centre: voxel [20.0, 3.0, 3.0] is outside the grid of"),
        (ADD | {"centre": [0, 0, 0], "radius_mm": 1}, "no voxel of head within 1 mm of voxel"),
        (ADD | {"centre_fraction": [0, 0, 0]}, "want either centre (voxels) or centre_fraction"),
        (ADD | {"label": ["lesion", "head"]}, "want one label"),
    ],
)
def test_wrong_entries_are_named_in_one_line(entry: Any, wanted: str, tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "edit.yaml", [{"op": "flip"}, entry])
    message = refused(path)
    assert f"{path}, entry 2" in message
    assert wanted in message


def test_a_mask_outside_its_schema_is_refused() -> None:
    with pytest.raises(MedpairError, match="id 9"):
        read_edit([{"op": "flip"}], head() + np.uint8(7), AFFINE, SCHEMA)
