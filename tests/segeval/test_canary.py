"""The benchmark of the audit's power: what it counts, and the data that it trains on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from common.data.datasets import PairSet

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "canary.py"


@pytest.fixture(scope="module")
def canary() -> ModuleType:
    spec = importlib.util.spec_from_file_location("canary", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(**copies: str) -> dict[str, Any]:
    named = {name: {"training": scan} for name, scan in copies.items()}
    return {"n": 4, "n_copies": len(copies), "copies": named}


def test_copies_of_the_canary_are_what_counts(canary: ModuleType) -> None:
    found = canary.score(report(a="phantom-0000", b="phantom-0000", c="phantom-0003"))
    assert found == {"pairs": 4, "copies": 3, "of_canary": 2, "share": 0.5, "flagged": True}
    other = canary.score(report(c="phantom-0003"))
    assert (other["of_canary"], other["flagged"]) == (0, False)


def test_the_audit_must_catch_one_set_and_let_the_other_go(canary: ModuleType) -> None:
    caught, clean = canary.score(report(a="phantom-0000")), canary.score(report())
    assert canary.passed(caught, clean)
    assert not canary.passed(clean, clean)
    assert not canary.passed(caught, caught)


def test_a_repeated_scan_is_one_person_many_times(canary: ModuleType, tmp_path: Path) -> None:
    scans = [("canary-00", 0), ("canary-01", 0), *canary.persons(1, 1)]
    pairs = PairSet.open(canary.write_scans(tmp_path, scans))
    assert pairs.ids("training") == ("canary-00", "canary-01", "phantom-0001")
    assert len(pairs.ids("validation")) == 20
    assert {pairs.person(name) for name in ("canary-00", "canary-01")} == {canary.CANARY}
    one, other = (pairs.read(name).image for name in ("canary-00", "canary-01"))
    np.testing.assert_array_equal(one, other)
    assert (pairs.read("phantom-0001").image != one).any()
