"""How a pair set was made, as rows for the report: what its header and manifest say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.data.datasets import PairSet

Row = tuple[str, str]
_SHORT = 12  # digits of a hash


def rows(pairs: PairSet) -> list[Row]:
    """Return what is known of a pair set beyond its pairs.

    Args:
        pairs: the pair set.

    Returns:
        (what, value) in words; hashes shortened.
    """
    header = pairs.header
    found = [("schema", f"{pairs.schema.name}, {pairs.schema.modality}")]
    found += [("intensity", ", ".join(_flat(header["intensity"])))]
    known = {"format", "name", "modality", "labels", "orientation", "slice_axis", "schema"}
    known |= {"spacing", "size", "intensity"}
    for key, value in header.items():
        if key not in known:
            found += _rows(key, value)
    releases = {tuple(record.get("versions", {}).items()) for record in pairs.manifest}
    for items in sorted(releases):
        found.append(("made with", ", ".join(f"{name} {release}" for name, release in items)))
    return found


def _rows(key: str, value: Any) -> Iterator[Row]:
    if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
        for name, part in value.items():
            yield from _rows(name if key == "generated" else f"{key}: {name}", part)
    elif isinstance(value, Mapping):
        yield key, ", ".join(_flat(value))
    else:
        yield key, _brief(value)


def _flat(value: Mapping[str, Any]) -> Iterator[str]:
    for name, part in value.items():
        yield f"{name} {_brief(part)}"


def _brief(value: Any) -> str:
    text = "none" if value is None else str(value)
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:_SHORT] if is_hash else text
