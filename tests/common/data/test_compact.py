"""A pair set as one file: what comes back, what stays behind, what is refused."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from common import pipeline
from common.cli import app
from common.data.compact import CompactSet, open_set, write_compact
from common.data.datasets import Pair, PairSet, load_arrays
from common.data.labels import load_schema
from common.data.phantom import write_phantom_set
from common.errors import MedpairError

SIZE = (16, 20, 18)


@pytest.fixture(scope="module")
def pairset(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    folder = tmp_path_factory.mktemp("pairs") / "set"
    return write_phantom_set(folder, "brain4", SIZE, 5, 0, (4.0, 4.0, 4.0))


def scanned(folder: Path, image: np.ndarray) -> PairSet:
    """A set of one pair with a given image."""
    made = PairSet.create(folder, load_schema("brain4"), (1.0, 1.0, 1.0), None, {})
    made.write(Pair("one", image, np.zeros(image.shape, np.uint8), np.eye(4)))
    return made


@pytest.mark.parametrize("split", ["training", "validation"])
def test_what_is_read_is_what_was_written(split: str, pairset: PairSet, tmp_path: Path) -> None:
    error = write_compact(pairset, tmp_path / "set.medpair", kept_back=True)
    back, wanted = load_arrays(tmp_path / "set.medpair", split), load_arrays(pairset.dir, split)
    assert (back.ids, back.spacing, back.schema) == (wanted.ids, wanted.spacing, wanted.schema)
    for one, other in zip(back.images + back.labels, wanted.images + wanted.labels, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert error == 0
    opened = open_set(tmp_path / "set.medpair")
    assert (opened.schema, opened.size) == (pairset.schema, SIZE)


@pytest.mark.parametrize(("bits", "steps"), [(16, 65535), (8, 255)])
def test_many_values_are_rounded_to_steps(bits: int, steps: int, tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(-0.1, 1.4, (40, 32, 32)).astype(np.float32)
    made = scanned(tmp_path / "set", image)
    error = write_compact(made, tmp_path / "set.medpair", bits=bits)
    back = load_arrays(tmp_path / "set.medpair").images[0]
    assert np.abs(back - image).max() == pytest.approx(error, abs=1e-7)
    assert error <= np.ptp(image) / steps / 2 + 1e-6


def test_an_image_of_one_value_comes_back(tmp_path: Path) -> None:
    image = np.full((4, 4, 4), 0.3, np.float32)
    write_compact(scanned(tmp_path / "set", image), tmp_path / "set.medpair", bits=8)
    np.testing.assert_array_equal(load_arrays(tmp_path / "set.medpair").images[0], image)


def test_kept_back_scans_stay_behind_unless_asked_for(
    pairset: PairSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_compact(pairset, tmp_path / "set.medpair")
    kept_back = pairset.ids("validation")
    assert kept_back
    assert not {line["id"] for line in CompactSet(tmp_path / "set.medpair").lines()} & {*kept_back}
    with zipfile.ZipFile(tmp_path / "set.medpair") as file:
        assert not [n for n in file.namelist() if n.split("/")[0] in kept_back]
    with caplog.at_level(logging.WARNING):
        shown = load_arrays(tmp_path / "set.medpair", "validation")
    assert shown.ids == pairset.ids("training")
    assert "validations look at training scans" in caplog.text


def test_equal_sets_give_equal_bytes(pairset: PairSet, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_compact(pairset, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_cut_short_is_refused(pairset: PairSet, tmp_path: Path) -> None:
    path = tmp_path / "set.medpair"
    write_compact(pairset, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MedpairError, match=r"set\.medpair: header\.json cannot be read"):
        load_arrays(path)


@pytest.mark.parametrize("part", ["image", "label"])
def test_a_changed_part_is_refused_by_name(part: str, pairset: PairSet, tmp_path: Path) -> None:
    path, name = tmp_path / "set.medpair", pairset.ids("training")[0]
    write_compact(pairset, path)
    with zipfile.ZipFile(path) as file:
        parts = {entry: file.read(entry) for entry in file.namelist()}
    parts[f"{name}/{part}"] = parts[f"{name}/{part}"][:-1] + b"\x07"
    with zipfile.ZipFile(path, "w") as file:
        for entry, data in parts.items():
            file.writestr(entry, data)
    with pytest.raises(MedpairError, match=f"{part} of {name} is damaged"):
        load_arrays(path)


def test_a_flipped_bit_is_refused(pairset: PairSet, tmp_path: Path) -> None:
    path = tmp_path / "set.medpair"
    write_compact(pairset, path)
    data = bytearray(path.read_bytes())
    data[200] ^= 16
    path.write_bytes(data)
    with pytest.raises(MedpairError, match=r"set\.medpair: .* cannot be read|damaged"):
        load_arrays(path)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "new.medpair", "w") as file:
        file.writestr("header.json", json.dumps({"format": "medpair-compact-9"}))
    with pytest.raises(MedpairError, match="format medpair-compact-9, wanted medpair-compact-1"):
        open_set(tmp_path / "new.medpair")


def test_a_file_of_another_schema_is_refused_before_training(tmp_path: Path) -> None:
    other = write_phantom_set(tmp_path / "set", "thorax7", (48, 40, 40), 2, 0)
    write_compact(other, tmp_path / "thorax.medpair")
    with pytest.raises(MedpairError, match=r"thorax\.medpair: schema thorax7.* wants brain4"):
        pipeline.train("medgen3d", data=tmp_path / "thorax.medpair", out=tmp_path / "w")


def test_the_command_says_size_and_loss(pairset: PairSet, tmp_path: Path) -> None:
    path = tmp_path / "set.medpair"
    words = ["export", str(pairset.dir), "--format", "compact", "--out", str(path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert f"4 pairs in {path}" in result.stdout
    assert "within 0 of the pair set's" in result.stdout
    assert CliRunner().invoke(app, [*words, "--bits", "12"]).exit_code != 0
