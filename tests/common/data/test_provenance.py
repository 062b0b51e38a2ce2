"""What of a pair is real: said once when it is written, deduced for older lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.data.datasets import PairSet
from common.data.phantom import write_phantom_set
from common.data.provenance import GENERATED, GIVEN, REAL, Provenance, for_mask_of, provenance_of

HEADER: dict[str, Any] = {"generated": {"pipeline": "gem3d"}}


def generated(**stages: dict[str, str]) -> dict[str, Any]:
    return {"source": "generated", "parameters": {"stages": stages}}


def test_every_written_line_says_it(tmp_path: Path) -> None:
    write_phantom_set(tmp_path, "brain4", (16, 16, 16), 2)
    pairs = PairSet.open(tmp_path)
    assert [pairs.record(i)["provenance"] for i in pairs.ids()] == [
        {"image": "phantom", "mask": "phantom"}
    ] * 2


def test_what_a_line_says_stands(tmp_path: Path) -> None:
    said = Provenance(GENERATED, REAL, GENERATED, "gem3d")
    assert provenance_of({}, {"provenance": said.to_dict(), "source": "generated"}) == said
    write_phantom_set(tmp_path, "brain4", (16, 16, 16), 1)
    made = PairSet.open(tmp_path)
    pair = replace(made.read(made.ids()[0]), id="other")
    made.write(pair, {"provenance": said.to_dict()})
    assert PairSet.open(made.dir).record("other")["provenance"] == said.to_dict()


@pytest.mark.parametrize(
    ("informed", "says"), [("real", "a real slice"), ("generated", "a generated slice")]
)
def test_the_volume_stage_says_what_its_slices_are(informed: str, says: str) -> None:
    found = provenance_of(HEADER, generated(volume={"informed": informed}))
    assert found == Provenance(GENERATED, GIVEN, informed, "gem3d")
    assert says in found.says()


def test_an_image_for_a_given_mask_inherits_the_origin_of_the_mask() -> None:
    given = provenance_of(HEADER, generated(volume={}))
    real: dict[str, Any] = {"source": {"image": "1.nii.gz", "label": "1_seg.nii.gz"}}
    assert for_mask_of(given, {}, real).mask == REAL
    assert for_mask_of(given, HEADER, generated(mask={}, image={})).mask == GENERATED
    assert for_mask_of(given, {}, {}).mask == GIVEN  # nothing is known of it
    whole = provenance_of(HEADER, generated(mask={}, image={}))
    assert for_mask_of(whole, {}, real) == whole
