"""Pairs that leave a pair set: whole, with their reason, and after any interruption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.data import sidesets
from common.data.audits import mark_audited, read_audit
from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.data.sidesets import open_side, removed, take_out
from common.errors import MedpairError
from common.info import describe
from common.io.lock import exclusive


@pytest.fixture
def pairs(tmp_path: Path) -> PairSet:
    return write_phantom_set(tmp_path / "p", "brain4", (16, 16, 16), 3, holdout=0.0)


def files(pairs: PairSet) -> set[str]:
    found = (path for kind in ("images", "labels") for path in (pairs.dir / kind).iterdir())
    return {path.name.split(".")[0] for path in found}


def test_quarantine_keeps_the_pair_and_says_why(pairs: PairSet) -> None:
    name, *others = pairs.ids()
    before, record = pairs.read(name), pairs.record(name)
    assert take_out(pairs, {name: "copy of t1"}, quarantine=True) == [name]
    assert (list(pairs.ids()), files(pairs)) == (others, set(others))
    assert PairSet.open(pairs.dir).ids() == tuple(others)
    kept = PairSet.open(pairs.dir / "quarantine")
    np.testing.assert_array_equal(kept.read(name).image, before.image)
    np.testing.assert_array_equal(kept.read(name).label, before.label)
    assert kept.record(name) == {**record, "reason": "copy of t1"}
    assert removed(pairs.dir) == {name: "copy of t1"}
    listed = json.loads((pairs.dir / "dataset.json").read_text())["training"]
    assert [entry["id"] for entry in listed] == others


def test_drop_deletes_the_pair(pairs: PairSet) -> None:
    name, *others = pairs.ids()
    take_out(pairs, {name: "why"}, quarantine=False)
    assert files(pairs) == set(others)
    assert not (pairs.dir / "quarantine").exists()
    assert removed(pairs.dir) == {name: "why"}


def test_unknown_ids_and_no_ids_change_nothing(pairs: PairSet) -> None:
    assert take_out(pairs, {"nobody": "why"}, quarantine=True) == []
    assert len(pairs.ids()) == 3
    assert (removed(pairs.dir), (pairs.dir / "quarantine").exists()) == ({}, False)


@pytest.mark.parametrize("step", ["write", "write_json", "drop", "unlink"])
@pytest.mark.parametrize("quarantine", [True, False])
def test_interrupted_anywhere_and_called_again(
    pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, quarantine: bool
) -> None:
    """Wherever it stops: no pair is lost, none stays half, and the second call ends equally."""
    reasons = dict.fromkeys(pairs.ids()[:2], "why")
    whole = write_phantom_set(tmp_path / "whole", "brain4", (16, 16, 16), 3, holdout=0.0)
    take_out(whole, reasons, quarantine=quarantine)
    owner = {"write": PairSet, "write_json": sidesets, "drop": type(pairs.manifest), "unlink": Path}

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner[step], step, stop)
        if step == "write" and not quarantine:
            take_out(pairs, reasons, quarantine=quarantine)  # nothing to be written
        else:
            with pytest.raises(KeyboardInterrupt):
                take_out(pairs, reasons, quarantine=quarantine)
    again = PairSet.open(pairs.dir)
    for name in again.ids():
        again.read(name)
    take_out(again, reasons, quarantine=quarantine)
    left, wanted = ({str(p.relative_to(d)): p.read_bytes() for p in d.rglob("*") if p.is_file()}
                    for d in (pairs.dir, whole.dir))  # fmt: skip
    assert left == wanted


def test_a_set_in_use_is_left_alone(pairs: PairSet) -> None:
    with exclusive(pairs.dir), pytest.raises(MedpairError, match="another run"):
        take_out(pairs, dict.fromkeys(pairs.ids(), "why"), quarantine=False)
    assert len(pairs.ids()) == 3


def test_a_damaged_list_is_named(pairs: PairSet) -> None:
    (pairs.dir / "removed.json").write_text("[1")
    with pytest.raises(MedpairError, match=r"removed\.json.*audit again"):
        removed(pairs.dir)


def test_a_side_set_has_the_settings_of_its_pair_set(pairs: PairSet) -> None:
    side = open_side(pairs, "rejected")
    assert side.header == pairs.header
    assert open_side(pairs, "rejected").ids() == ()


def test_a_pair_set_says_whether_it_was_audited(pairs: PairSet) -> None:
    def said() -> str:
        return dict(describe(pairs.dir))["audit"]

    assert said() == "not audited"
    against = {"training": {"pairs": 5}, "held_out": {"pairs": 2}}
    mark = {"against": against, "copies_left": [], "removed": {}}
    mark_audited(pairs, mark)
    assert said().startswith("0 copies among 3 pairs, 0 taken out (medpair ")
    assert said().endswith("against 5 training and 2 kept-back scans)")
    pairs.remove(pairs.ids()[0])
    assert said() == "not audited since its pairs changed"
    (pairs.dir / "audit.json").write_text("{}")
    assert said().startswith("not audited: audit.json is damaged")


def test_prepared_scans_are_not_said_to_be_unaudited(tmp_path: Path, pairs: PairSet) -> None:
    real = PairSet.create(tmp_path / "real", pairs.schema, None, None, {}, prepare={"crop": None})
    assert "audit" not in dict(describe(real.dir))
    assert read_audit(real) == "not audited"
