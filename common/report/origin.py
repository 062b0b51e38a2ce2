"""Where a pair comes from, in words, as far as its manifest line says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.data import provenance
from common.data.provenance import Provenance, provenance_of
from common.io.manifest import Record

REAL = "prepared scan"
"""Kind of a pair that was prepared from files."""
REAL_MASK = "from a real mask"


def origin_of(record: Record, header: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of a pair and what is known beyond it.

    Args:
        record: its manifest line.
        header: of the pair set.

    Returns:
        The kind, and details such as the ids of mask and slice ("" where there are none).
    """
    return _kind(provenance_of(header, record)), _details(record)


def _kind(found: Provenance) -> str:
    if found.image == provenance.REAL:
        return REAL
    if found.image in (provenance.PHANTOM, provenance.UNKNOWN):
        return found.image
    if found.mask in (provenance.REAL, provenance.CHANGED):
        return REAL_MASK + (f" and a {found.slice} slice" if found.slice else "")
    if found.mask == provenance.GIVEN:
        given = found.image == provenance.GIVEN
        return "given pair" if given else "image for a given mask"
    return "fully generated" if found.mask == provenance.GENERATED else provenance.UNKNOWN


def _details(record: Record) -> str:
    source, stages = record.get("source"), record.get("parameters", {}).get("stages")
    if not isinstance(source, Mapping):
        return "stages " + ", ".join(stages) if stages else ""
    if "mask" in source:
        informed = record.get("informed", {})
        taken = informed.get("id", informed.get("source"))
        return f"mask {source['mask']}" + (f", slice of {taken}" if taken else "")
    if "image" in source:
        return f"file {source['image']}"
    return f"mask {source['label']}" if "label" in source else ""


def gate_of(record: Record) -> str:
    """Return the gate's verdict on a pair in words."""
    gate = record.get("gate")
    if isinstance(gate, Mapping):
        attempts = int(gate.get("attempts", 1))
        verdict = "passed" if gate.get("passed") else "refused"
        return verdict if attempts == 1 else f"{verdict}, attempt {attempts}"
    return str(gate) if gate else "none"
