"""The benchmark of transfer: its scanners, its persons, and the rows that it reports."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from common.data.datasets import PairSet
from common.data.phantom import make_phantom

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def transfer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("transfer", BENCHMARKS / "transfer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


SIZE = (24, 16, 16)


def mean_of_label(image: np.ndarray, label: np.ndarray, value: int) -> float:
    return float(image[label == value].mean())


@pytest.mark.parametrize("scanner", ["inverted", "coarse"])
def test_another_scanner_shows_the_same_brain_otherwise(transfer: ModuleType, scanner: str) -> None:
    image, label = make_phantom("brain4", SIZE, 0)
    changed = transfer.SCANNERS[scanner](image, np.random.default_rng(0))
    np.testing.assert_array_equal(changed > 0, image > 0)
    cortex, white = (mean_of_label(changed, label, value) for value in (1, 3))
    assert (cortex < white) == (scanner != "inverted")
    assert abs(changed - image)[label > 0].mean() > 0.1


def test_no_person_is_in_two_sets(transfer: ModuleType, tmp_path: Path) -> None:
    source = PairSet.open(transfer.write_scans(tmp_path / "a", list(transfer.persons(100, 2))))
    sets = [source]
    for scanner, first in transfer.FIRST_OF.items():
        few, tested = list(transfer.persons(first, 1)), list(transfer.persons(first + 1, 2))
        change = transfer.SCANNERS[scanner]
        sets.append(PairSet.open(transfer.write_scans(tmp_path / scanner, few, tested, change)))
        assert (len(sets[-1].ids("training")), len(sets[-1].ids("validation"))) == (1, 2)
    names = [pairs.record(name)["person"] for pairs in sets for name in pairs.ids(None)]
    assert len(names) == len(set(names))


def test_a_row_per_comparison(transfer: ModuleType) -> None:
    mean: dict[str, Any] = {"mean": 0.1, "low": 0.05, "high": 0.2}
    measures = {"dice": {"mean": mean}}
    report = {
        "arms": [
            {"strategy": "E3-1", "mean": {"dice": 0.5, "hd95_mm": 9.0}},
            {"strategy": "E3-3", "mean": {"dice": 0.6, "hd95_mm": 8.0}},
        ],
        "differences": [{"strategy": "E3-3", "against": "E3-1", "measures": measures}],
    }
    first, second = transfer.rows("coarse", report)
    assert (first["strategy"], first["against"], first["difference"]) == ("E3-1", "-", "-")
    assert (second["Dice"], second["against"]) == (0.6, "E3-1")
    assert (second["difference"], second["low"], second["high"]) == (0.1, 0.05, 0.2)
