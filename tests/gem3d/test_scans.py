"""Scans of a pair set and phantoms come in one form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.errors import MedpairError
from gem3d.scans import open_scans


def test_phantoms_in_memory_are_split(tmp_path: Path) -> None:
    scans = open_scans("phantom:brain4:16x18x20:4", "brain4")
    assert [len(scans.of(split)) for split in ("training", "validation")] == [4, 1]
    assert scans.size == (16, 18, 20)
    assert {scan.person for scan in scans.scans} == {scan.id for scan in scans.scans}


def test_a_pair_set_keeps_persons_splits_and_affines(tmp_path: Path) -> None:
    pairs = write_phantom_set(tmp_path, "brain4", (16, 16, 16), 3, holdout=0.3)
    scans = open_scans(tmp_path)
    assert tuple(scan.id for scan in scans.scans) == pairs.ids()
    for scan in scans.scans:
        assert (scan.person, scan.split) == (pairs.person(scan.id), pairs.record(scan.id)["split"])
        np.testing.assert_array_equal(scan.affine, pairs.read(scan.id).affine)
        assert 0 <= scan.image.min() <= scan.image.max() <= 1
    assert scans.scan(pairs.ids()[1]).id == pairs.ids()[1]


def test_bad_sets_are_named(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="weights are for 'lesion1'"):
        open_scans("phantom:brain4:16x16x16:2", "lesion1")
    schema = open_scans("phantom:brain4:16x16x16:1").schema
    PairSet.create(tmp_path / "empty", schema, None, None, {})
    with pytest.raises(MedpairError, match="empty"):
        open_scans(tmp_path / "empty")
    with pytest.raises(MedpairError, match="no pair 'x'"):
        open_scans("phantom:brain4:16x16x16:1").scan("x")
