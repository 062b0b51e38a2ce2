import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from common.data.labels import LabelSchema, load_schema, schema_names, unique_ids
from common.errors import MedpairError

SCHEMAS = ("abdomen4", "brain4", "brats3", "lesion1", "thorax7")


def plain() -> dict[str, Any]:
    return copy.deepcopy(load_schema("thorax7").to_dict())


def test_the_shipped_schemas() -> None:
    assert schema_names() == SCHEMAS
    assert [load_schema(n).num_classes for n in SCHEMAS] == [6, 6, 5, 3, 8]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_survives_json_and_yaml(name: str, tmp_path: Path) -> None:
    schema = load_schema(name)
    assert LabelSchema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(schema.to_dict()))
    assert load_schema(path) == schema


@pytest.mark.parametrize("name", SCHEMAS)
def test_flipping_twice_is_nothing_and_colours_differ(name: str) -> None:
    schema = load_schema(name)
    lut = schema.flip_lut
    np.testing.assert_array_equal(lut[lut], np.arange(schema.num_classes))
    assert lut[0] == 0
    assert len({tuple(c) for c in schema.palette.tolist()}) == schema.num_classes
    assert schema.container_id == schema.num_classes - 1


def test_lungs_change_sides() -> None:
    schema = load_schema("thorax7")
    left, right = schema.id_of("left_lung"), schema.id_of("right_lung")
    assert schema.flip_lut[left] == right
    assert schema.flip_lut[schema.id_of("heart")] == schema.id_of("heart")


@pytest.mark.parametrize(
    ("source", "value", "name"),
    [
        ("neuromorphometrics", 100, "cortex"),
        ("neuromorphometrics", 207, "cortex"),
        ("neuromorphometrics", 38, "cortex"),
        ("neuromorphometrics", 59, "subcortical_gm"),
        ("neuromorphometrics", 35, "white_matter"),
        ("neuromorphometrics", 51, "csf"),
        ("freesurfer", 3, "cortex"),
        ("freesurfer", 2035, "cortex"),
        ("freesurfer", 10, "subcortical_gm"),
        ("freesurfer", 53, "subcortical_gm"),
        ("freesurfer", 16, "white_matter"),
        ("freesurfer", 43, "csf"),
        ("freesurfer", 24, "brain"),
        ("freesurfer", 515, "background"),
    ],
)
def test_brain_sources(source: str, value: int, name: str) -> None:
    schema = load_schema("brain4")
    out = schema.remap(np.full((2, 2, 2), value), source)
    assert out.dtype == np.uint8
    assert (out == schema.id_of(name)).all()


def test_the_same_structures_go_to_the_same_label_from_both_sources() -> None:
    table = load_schema("brain4").sources
    same = {44: 2, 36: 50, 57: 51, 55: 52, 59: 49, 47: 53, 31: 54, 23: 58, 61: 60, 35: 16}
    same |= {4: 14, 11: 15, 51: 43, 49: 44, 38: 47, 40: 46, 69: 85}
    for neuromorphometrics, freesurfer in same.items():
        assert table["neuromorphometrics"][neuromorphometrics] == table["freesurfer"][freesurfer]


def test_groups_of_brats() -> None:
    assert load_schema("brats3").groups == {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}


@pytest.mark.parametrize("groups", [{"WT": []}, {"WT": [5]}, {"WT": [0, 1]}, {"edema": [1, 2]}])
def test_groups_hold_labels_and_have_names_of_their_own(groups: dict[str, list[int]]) -> None:
    plain = load_schema("brats3").to_dict() | {"groups": groups}
    name = next(iter(groups))
    with pytest.raises(MedpairError, match=rf"mine: group {name}: .*, wanted ids 1\.\.4"):
        LabelSchema.from_dict(plain, "mine")


def test_remap_keeps_place_and_refuses_strangers() -> None:
    schema = load_schema("brats3")
    ids = np.array([[[0, 1], [2, 4]]])
    np.testing.assert_array_equal(schema.remap(ids, "brats2017"), [[[0, 2], [1, 3]]])
    with pytest.raises(MedpairError, match=r"ids 9 .*brats3.*wanted"):
        schema.remap(np.array([0, 9]), "msd")
    with pytest.raises(MedpairError, match="use source neuromorphometrics"):
        load_schema("brain4").remap(np.array([4, 207]))
    with pytest.raises(MedpairError, match="ids -1"):
        schema.remap(np.array([0, -1]))
    with pytest.raises(MedpairError, match="choose one of schema, msd"):
        schema.remap(ids, "nobody")


def test_readings_tell_which_sources_fit() -> None:
    brats = load_schema("brats3")
    assert set(brats.readings({0, 1, 2, 4})) == {"schema", "brats2017"}
    assert brats.readings({1, 2, 3})["msd"] == brats.readings({1, 2, 3})["schema"]
    assert brats.readings({77}) == {}


def test_unique_ids_agrees_with_sorting() -> None:
    values = np.random.default_rng(0).integers(0, 3000, 500)
    for array in (values, values - 10, values * 10**6, values[:0]):
        assert unique_ids(array) == sorted(set(array.tolist()))


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"modality": "PET"}, "wanted MR or CT"),
        ({"slice_axis": "LR"}, "wanted MR or CT and AP or SI"),
        ({"labels": [], "sources": {}}, "container body"),
        ({"labels": [{"name": "a", "id": 2, "colour": [1, 2, 3]}], "sources": {}}, "without gaps"),
        ({"labels": [{"name": "a", "id": 1}]}, "not a label schema"),
        ({"container": {"name": "skin", "support": "nonzero"}}, "container skin"),
        ({"container": {"name": "body", "support": "magic"}}, "support magic"),
        ({"sources": {"x": {"heart": [1], "body": ["1-3"]}}}, "1 is mapped twice"),
        ({"sources": {"x": {"hearts": [1]}}}, "hearts"),
    ],
)
def test_wrong_schemas_are_named(change: dict[str, Any], pattern: str) -> None:
    with pytest.raises(MedpairError, match=pattern) as caught:
        LabelSchema.from_dict(plain() | change, origin="own.yaml")
    assert str(caught.value).startswith("own.yaml: ")


@pytest.mark.parametrize("name", ["background", "right_lung"])
def test_names_are_unique(name: str) -> None:
    data = plain() | {"sources": {}}
    data["labels"][0]["name"] = name
    with pytest.raises(MedpairError, match="its own name"):
        LabelSchema.from_dict(data)


@pytest.mark.parametrize(("key", "value"), [("pair", "heart"), ("inside", "nothing")])
def test_wrong_references_are_named(key: str, value: str) -> None:
    data = plain()
    data["labels"][0][key] = value
    with pytest.raises(MedpairError, match=f"label left_lung: .*{value}"):
        LabelSchema.from_dict(data)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="choose abdomen4, brain4"):
        load_schema("brain5")
    with pytest.raises(MedpairError, match="no such schema file"):
        load_schema(tmp_path / "none.yaml")
    for text, pattern in (("a: [", "not YAML"), ("- 1", "holds a list"), ("name: x", "KeyError")):
        (tmp_path / "own.yaml").write_text(text)
        with pytest.raises(MedpairError, match=pattern) as caught:
            load_schema(tmp_path / "own.yaml")
        assert "\n" not in str(caught.value)


def test_unknown_label_name() -> None:
    with pytest.raises(MedpairError, match="no label 'lung'; choose one of background, left_lung"):
        load_schema("thorax7").id_of("lung")
