"""Damaged files of a pair set are named, the others are read."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.data.readable import read_pairs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "set"
    write_phantom_set(folder, "brain4", (16, 16, 16), 5)
    return folder


def test_every_kind_of_damage_is_named(whole: Path, tmp_path: Path) -> None:
    pairs = PairSet.open(shutil.copytree(whole, tmp_path / "set"))
    ids = pairs.ids()
    cut, gone = pairs.paths(ids[0])[0], pairs.paths(ids[1])[1]
    cut.write_bytes(cut.read_bytes()[:500])
    gone.unlink()
    changed = pairs.paths(ids[2])[1]  # a whole file, but not the one that was written
    content = bytearray(gzip.decompress(changed.read_bytes()))
    content[-9] ^= 1
    changed.write_bytes(gzip.compress(bytes(content)))
    pairs.paths(ids[3])[0].write_bytes(b"no volume")
    good, bad = read_pairs(pairs, ids)
    assert [pair.id for pair in good] == [ids[4]]
    assert list(bad) == list(ids[:4])
    assert "truncated" in bad[ids[0]]
    assert "no such file" in bad[ids[1]]
    assert "sha256 differs from manifest.jsonl" in bad[ids[2]]
    assert "not a NIfTI or MGH volume" in bad[ids[3]]
    assert all("\n" not in line and str(tmp_path) in line for line in bad.values())


def test_whole_sets_are_read_as_they_are(whole: Path) -> None:
    pairs = PairSet.open(whole)
    good, bad = read_pairs(pairs, pairs.ids())
    assert not bad
    assert len(good) == 5
    np.testing.assert_array_equal(good[0].label, pairs.read(pairs.ids()[0]).label)
