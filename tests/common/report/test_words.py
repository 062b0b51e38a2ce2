"""What the report says of a pair's origin, gate, seconds and provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.data.phantom import write_phantom_set
from common.report.header import rows
from common.report.origin import gate_of, origin_of
from common.report.seconds import read_log, seconds_of


def made(*stages: str) -> dict[str, Any]:
    return {"source": "generated", "parameters": {"stages": {name: {} for name in stages}}}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (made("mask", "image"), "fully generated"),
        (made("image", "refine"), "image for a given mask"),
        (made("volume"), "image for a given mask"),
        (made("refine"), "given pair"),
        (made(), "given pair"),
        ({"source": "generated"}, "not stated"),
        ({"source": {"image": "1_T1.nii.gz", "label": "1_l.nii.gz"}}, "prepared scan"),
        ({"source": {"label": "1"}}, "image for a given mask"),
        (
            {"source": {"mask": "1", "person": "1"}, "informed": {"kind": "cross", "id": "2"}},
            "from a real mask and a real slice",
        ),
        (
            {"source": {"mask": "1"}, "informed": {"kind": "generated"}},
            "from a real mask and a generated slice",
        ),
        ({"source": {"mask": "1"}}, "from a real mask"),
        ({}, "not stated"),
    ],
)
def test_origin(record: dict[str, Any], kind: str) -> None:
    assert origin_of(record, {})[0] == kind


def test_details_name_mask_and_slice() -> None:
    record = {"source": {"mask": "1"}, "informed": {"kind": "cross", "id": "2"}}
    assert origin_of(record, {})[1] == "mask 1, slice of 2"
    assert origin_of({}, {"phantom": {}})[0] == "phantom"


def test_gate() -> None:
    assert gate_of({"gate": {"passed": True, "attempts": 1}}) == "passed"
    assert gate_of({"gate": {"passed": True, "attempts": 3}}) == "passed, attempt 3"
    assert gate_of({"gate": {"passed": False, "attempts": 1}}) == "refused"
    assert gate_of({"gate": "not run: left out"}) == "not run: left out"
    assert gate_of({}) == "none"


def test_seconds_are_shares_of_batches_and_attempts(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    assert read_log(path) == []
    path.write_text(
        '{"stage": "mask", "volumes": [0, 1], "seconds": 6}\n'
        '{"stage": "mask", "volumes": [0, 1], "seconds": 2, "attempt": 1}\n'
        '{"stage": "volume", "pairs": ["e"], "seconds": 5}\n'
        '{"stage": "prepare", "id": "p", "seconds": 0.5}\n{"stage": "ma'
    )
    log = read_log(path)
    assert len(log) == 4
    assert seconds_of({"id": "a", "volume": 1, "source": "generated"}, log) == 4
    assert seconds_of({"id": "e", "volume": 1, "source": {"mask": "m"}}, log) == 5
    assert seconds_of({"id": "p"}, log) == 0.5
    assert seconds_of({"id": "x", "volume": 7, "source": "generated"}, log) is None


def test_provenance_names_settings_and_versions(tmp_path: Path) -> None:
    pairs = write_phantom_set(tmp_path / "p", "brain4", (16, 16, 16), n=1)
    stage = {"bundle": "mcdpm_mask", "weights_sha256": "ab" * 32}
    pairs.header["generated"] = {"pipeline": "m", "stages": {"mask": stage}, "start": None}
    found = dict(rows(pairs))
    assert found["pipeline"] == "m"
    assert found["start"] == "none"
    assert found["stages: mask"] == "bundle mcdpm_mask, weights_sha256 abababababab"
    assert found["phantom"] == "seed 0"
    assert "numpy" in found["made with"]
