"""Harmonising: one slice for all masks makes one brightness of many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.datasets import Pair, PairSet
from common.data.export import export_pair
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from gem3d.harmonise import Harmonisation
from gem3d.scans import open_scans
from tests.gem3d.fake_generator import FakeGenerator

SIZE = (20, 24, 24)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of which each is darker than the one before."""
    folder = tmp_path_factory.mktemp("sets")
    plain = write_phantom_set(folder / "plain", "brain4", SIZE, 5, holdout=0.4)
    out = PairSet.create(folder / "set", plain.schema, plain.spacing, SIZE, plain.intensity)
    for number, name in enumerate(plain.ids()):
        pair, record = plain.read(name), plain.record(name)
        image = pair.image * np.float32(1 - 0.15 * number)
        out.write(
            Pair(name, image, pair.label, pair.affine), {"split": record["split"], "person": name}
        )
    return folder / "set"


@pytest.fixture
def weights(tmp_path: Path) -> str:
    (tmp_path / "model.pt").write_bytes(b"weights")
    return str(tmp_path / "model.pt")


def harmonise(data: Path, weights: str, out: Path, **changes: Any) -> PairSet:
    generator = changes.pop("generator", FakeGenerator())
    options = {"reference": PairSet.open(data).ids()[0], "slice": 10} | changes
    return Harmonisation(generator, str(data), str(out), weights, **options)()


def test_all_masks_get_the_same_slice_and_keep_their_names(
    data: Path, weights: str, tmp_path: Path
) -> None:
    generator = FakeGenerator()
    made, real = harmonise(data, weights, tmp_path / "out", generator=generator), PairSet.open(data)
    assert made.ids() == real.ids()
    assert made.ids("validation") == real.ids("validation")
    assert len({s.image_HW.numpy().tobytes() for s in generator.informed}) == 1
    for name in made.ids():
        assert made.person(name) == name
        np.testing.assert_array_equal(made.read(name).label, real.read(name).label)
        assert abs(made.record(name)["informed"]["start"] - 10) <= 2


def test_the_report_shows_a_smaller_spread(data: Path, weights: str, tmp_path: Path) -> None:
    harmonise(data, weights, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "harmonise.json").read_text())
    assert report["before"]["n"] == report["after"]["n"] == 5
    assert report["ratio"]["histogram_distance"] < 0.3
    assert report["ratio"]["median_spread"]["white_matter"] < 0.3
    assert 0 < report["structure"]["mean"]["3D"]["ssim"] < 1
    assert report["mismatch"]["within_tolerance"] == 1
    assert str(report["segmentation"]).startswith("not computed")


def test_the_same_images_give_no_change(data: Path, weights: str, tmp_path: Path) -> None:
    real = PairSet.open(data)
    report = Harmonisation(FakeGenerator(), str(data), "", weights).report
    copies = harmonise(data, weights, tmp_path / "out")
    for name in copies.ids():
        pair = real.read(name)
        image = pair.image.clip(0, 1)
        copies.write(
            Pair(name, image, pair.label, pair.affine),
            {"informed": copies.record(name)["informed"]},
        )
    found = report(copies, open_scans(data))
    assert found["before"] == found["after"]
    assert found["ratio"]["histogram_distance"] == 1
    assert found["structure"]["mean"]["3D"]["ms_ssim"] == pytest.approx(1)


def test_an_image_file_is_a_reference_too(data: Path, weights: str, tmp_path: Path) -> None:
    name = PairSet.open(data).ids()[0]
    image, _ = export_pair(PairSet.open(data), name, tmp_path)
    own = harmonise(data, weights, tmp_path / "id")
    made = harmonise(data, weights, tmp_path / "file", reference=str(image), slice=10)
    assert made.header["generated"]["reference"]["file"] == image.name
    a, b = (s.record(name)["informed"] for s in (own, made))
    assert (a["start"], a["area_ratio"]) == (b["start"], b["area_ratio"])
    a, b = (s.read(name).image for s in (own, made))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999  # its scale is taken from the file


def test_it_continues(data: Path, weights: str, tmp_path: Path) -> None:
    made = harmonise(data, weights, tmp_path / "out")
    before = made.manifest.path.read_bytes()
    generator = FakeGenerator()
    harmonise(data, weights, tmp_path / "out", generator=generator)
    assert generator.calls == []
    assert made.manifest.path.read_bytes() == before


def test_a_body_that_does_not_fit_is_refused_unless_allowed(
    data: Path, weights: str, tmp_path: Path
) -> None:
    with pytest.raises(MedpairError, match="--allow-mismatch"):
        harmonise(data, weights, tmp_path / "out", slice=2, reach=0.0)
    assert not (tmp_path / "out").exists()
    made = harmonise(data, weights, tmp_path / "out", slice=2, reach=0.0, allow_mismatch=True)
    report = json.loads((tmp_path / "out" / "harmonise.json").read_text())
    assert len(made.ids()) == 5
    assert report["mismatch"]["outside"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"reference": "nobody"}, "no pair 'nobody'"),
        ({"reference": None}, "give both"),
        ({"slice": None}, "give both"),
        ({"slice": 99}, "--slice: 99"),
        ({"slice": -1}, "--slice: -1"),
        ({"slice": 0}, "shows no body"),
        ({"reference": "none.nii.gz"}, "no such file"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    data: Path, weights: str, tmp_path: Path, changes: dict[str, Any], part: str
) -> None:
    with pytest.raises(MedpairError, match=part):
        harmonise(data, weights, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()
