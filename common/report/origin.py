"""Where a pair comes from, in words, as far as its manifest line says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.io.manifest import Record

REAL = "prepared scan"
"""Kind of a pair that was prepared from files."""
GENERATED = "fully generated"
GIVEN_MASK = "image for a given mask"
GIVEN_PAIR = "given pair"
REAL_MASK = "from a real mask"
PHANTOM = "phantom"
UNKNOWN = "not stated"
_SLICES = {
    "cross": "and a real slice",
    "generated": "and a generated slice",
    "given": "and a given slice",
}


def origin_of(record: Record, header: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of a pair and what is known beyond it.

    Args:
        record: its manifest line.
        header: of the pair set.

    Returns:
        The kind, and details such as the ids of mask and slice ("" where there are none).
    """
    source = record.get("source")
    if source == "generated":
        return _generated(record.get("parameters", {}).get("stages"))
    if isinstance(source, Mapping):
        return _from_files(source, record.get("informed", {}))
    return (PHANTOM, "") if "phantom" in header else (UNKNOWN, "")


def _generated(stages: Mapping[str, Any] | None) -> tuple[str, str]:
    if stages is None:
        return UNKNOWN, ""
    said = "stages " + ", ".join(stages) if stages else ""
    if "mask" in stages:
        return GENERATED, said
    return (GIVEN_MASK if {"image", "volume"} & set(stages) else GIVEN_PAIR), said


def _from_files(source: Mapping[str, Any], informed: Mapping[str, Any]) -> tuple[str, str]:
    if "mask" in source:
        kind = f"{REAL_MASK} {_SLICES.get(str(informed.get('kind')), '')}".strip()
        taken = informed.get("id", informed.get("source"))
        return kind, f"mask {source['mask']}" + (f", slice of {taken}" if taken else "")
    if "image" in source:
        return REAL, f"file {source['image']}"
    return GIVEN_MASK, f"mask {source['label']}" if "label" in source else ""


def gate_of(record: Record) -> str:
    """Return the gate's verdict on a pair in words."""
    gate = record.get("gate")
    if isinstance(gate, Mapping):
        attempts = int(gate.get("attempts", 1))
        verdict = "passed" if gate.get("passed") else "refused"
        return verdict if attempts == 1 else f"{verdict}, attempt {attempts}"
    return str(gate) if gate else "none"
