import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.datasets import Pair, PairSet, load_arrays
from common.data.intensity import intensity_of
from common.data.labels import load_schema
from common.data.phantom import make_phantom
from common.errors import MedpairError
from common.io.manifest import sha256

SIZE = (18, 16, 17)
AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def create(directory: Path, **changes: Any) -> PairSet:
    schema = load_schema(changes.pop("schema", "brain4"))
    options = {"spacing": (3.0, 4.0, 2.0), "size": SIZE} | changes
    return PairSet.create(directory, schema, intensity=intensity_of(schema), **options)


def pair(identity: str = "a", seed: int = 0, **changes: Any) -> Pair:
    image, label = make_phantom("brain4", SIZE, seed)
    return Pair(**{"id": identity, "image": image, "label": label, "affine": AFFINE} | changes)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    pairset = create(tmp_path / "s", note={"x": 1})
    line = pairset.write(pair(), {"split": "validation", "person": 7, "seed": 3})
    again = PairSet.open(tmp_path / "s")
    assert (again.spacing, again.size, again.schema) == (
        (3.0, 4.0, 2.0),
        SIZE,
        load_schema("brain4"),
    )
    assert again.record("a") == line
    assert again.person("a") == "7"
    assert (again.ids("training"), again.ids("validation"), again.ids()) == ((), ("a",), ("a",))
    have, want = again.read("a"), pair()
    np.testing.assert_array_equal(have.image, want.image)
    np.testing.assert_array_equal(have.label, want.label)
    np.testing.assert_array_equal(have.affine, AFFINE)
    image_path, label_path = again.paths("a")
    assert line["image_sha256"] == sha256(image_path)
    assert line["label_sha256"] == sha256(label_path)
    assert line["voxels"]["cortex"] == int((want.label == 1).sum())
    assert again.header["note"] == {"x": 1}


def test_the_order_of_writing_does_not_show(tmp_path: Path) -> None:
    for name, order in (("x", "abc"), ("y", "cab")):
        pairset = create(tmp_path / name)
        for identity in order:
            pairset.write(pair(identity, ord(identity)))
    for file in ("manifest.jsonl", "dataset.json", "images/b.nii.gz"):
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes()


def test_run_times_stay_out_of_the_manifest(tmp_path: Path) -> None:
    pairset = create(tmp_path / "s")
    pairset.write(pair())
    before = (tmp_path / "s" / "manifest.jsonl").read_bytes()
    pairset.log({"id": "a", "seconds": 1.5})
    assert json.loads((tmp_path / "s" / "run.jsonl").read_text()) == {"id": "a", "seconds": 1.5}
    assert (tmp_path / "s" / "manifest.jsonl").read_bytes() == before


def test_continuing_repairs_a_datalist_that_lags_behind(tmp_path: Path) -> None:
    pairset = create(tmp_path / "s")
    old = (tmp_path / "s" / "dataset.json").read_bytes()
    pairset.write(pair())
    new = (tmp_path / "s" / "dataset.json").read_bytes()
    (tmp_path / "s" / "dataset.json").write_bytes(old)
    assert create(tmp_path / "s").ids() == ("a",)
    assert (tmp_path / "s" / "dataset.json").read_bytes() == new


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"schema": "brats3"}, "name brain4, wanted brats3"),
        ({"spacing": None}, "spacing"),
        ({"size": (1, 2, 3)}, "size"),
        ({"seed": 4}, "seed"),
        ({"made": {"by": "a", "volumes": 4}}, "made.volumes 2, wanted 4"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    create(tmp_path / "s", made={"by": "a", "volumes": 2})
    changes = {"made": {"by": "a", "volumes": 2}} | changes
    with pytest.raises(MedpairError, match=f"already a pair set with .*({key}).*choose another"):
        create(tmp_path / "s", **changes)


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"image": np.zeros((2, 2, 2), np.float32)}, "wanted one shape"),
        ({"label": np.full(SIZE, 6, np.uint8)}, "label 6, wanted 0..5"),
        ({"image": np.full(SIZE, np.nan, np.float32)}, "NaN"),
        ({"identity": "../a"}, "file name"),
        ({"identity": ""}, "file name"),
    ],
)
def test_wrong_pairs_write_nothing(tmp_path: Path, changes: dict[str, Any], pattern: str) -> None:
    pairset = create(tmp_path / "s")
    with pytest.raises(MedpairError, match=pattern):
        pairset.write(pair(**changes))
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["dataset.json"]


def test_wrong_size_and_split(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match=r"wanted one shape \(D, H, W\) \(1, 2, 3\)"):
        create(tmp_path / "s", size=(1, 2, 3)).write(pair())
    pairset = create(tmp_path / "t")
    with pytest.raises(MedpairError, match="split 'test'"):
        pairset.write(pair(), {"split": "test"})
    with pytest.raises(MedpairError, match="split 'test'"):
        pairset.ids("test")
    with pytest.raises(MedpairError, match="no pair 'b'"):
        pairset.read("b")
    with pytest.raises(MedpairError, match="no pair in split training"):
        load_arrays(tmp_path / "t")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}', '{"modality": {"0": "MRI"}}'])
def test_foreign_dataset_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(MedpairError, match=r"dataset\.json: "):
        PairSet.open(tmp_path)
    with pytest.raises(MedpairError, match="no pair set"):
        PairSet.open(tmp_path / "none")
