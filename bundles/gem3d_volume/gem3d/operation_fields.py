"""Values of an operation's fields, as people write them in YAML: read, checked, written again.

A reader returns the value, or raises `ValueError` that says what was wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields
from typing import Any

from common.data.labels import LabelSchema
from common.errors import MedpairError

Reader = Callable[[Any], Any]


def option(read: Reader, default: Any = MISSING) -> Any:
    """Return a dataclass field with its reader; without a default it must be given."""
    return field(default=default, metadata={"read": read})


def number(low: float, high: float) -> Reader:
    """Return a reader of one number within bounds."""

    def read(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"a number {low:g}..{high:g}")
        return float(value)

    return read


def triple(low: float, high: float, what: str) -> Reader:
    """Return a reader of three numbers (D, H, W) within bounds."""
    one = number(low, high)

    def read(value: Any) -> tuple[float, ...]:
        try:
            if len(value) == 3 and not isinstance(value, str | Mapping):
                return tuple(one(item) for item in value)
        except (TypeError, ValueError):
            pass
        raise ValueError(f"three {what} [D, H, W], each {low:g}..{high:g}")

    return read


def voxel(value: Any) -> tuple[int, ...]:
    """Read a voxel (D, H, W)."""
    place = PLACE(value)
    if any(item != int(item) for item in place):
        raise ValueError("a voxel [D, H, W] of whole numbers")
    return tuple(int(item) for item in place)


def word(value: Any) -> str:
    """Read a name."""
    if not isinstance(value, str):
        raise ValueError("a name")
    return value


def names(value: Any) -> tuple[str, ...]:
    """Read a name or a list of names."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not found:
        raise ValueError("a label's or group's name, or a list of them")
    return tuple(word(item) for item in found)


LEAST_MM, FAR_MM = 1e-3, 1000.0
LENGTH = number(LEAST_MM, FAR_MM)
SHIFT = triple(-FAR_MM, FAR_MM, "lengths in mm")
DEGREES = triple(-180, 180, "angles in degrees")
PLACE = triple(0, 1e5, "voxels")
FRACTION = triple(0, 1, "shares of the grid")


def plain_fields(operation: Any) -> dict[str, Any]:
    """Return what an operation's fields hold, as JSON and YAML hold it; empty ones are left out."""
    values = ((f.name, getattr(operation, f.name)) for f in fields(operation))
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values if v not in (None, ())}


def read_fields(cls: Any, entry: Mapping[str, Any], schema: LabelSchema) -> Any:
    """Build an operation from its entry.

    Args:
        cls: the operation's dataclass.
        entry: key to value, without `op`.
        schema: knows the labels and groups that the entry may name.

    Raises:
        MedpairError: for unknown or missing keys, values or labels.
    """
    known = {f.name: f for f in fields(cls)}
    wrong = next((key for key in entry if key not in known), None)
    if wrong is not None:
        raise MedpairError(f"unknown key '{wrong}', want {', '.join(known) or 'none'}; correct it")
    missing = [n for n, f in known.items() if f.default is MISSING and n not in entry]
    if missing:
        raise MedpairError(f"no {missing[0]}, want {', '.join(missing)}; add it")
    values = {}
    for key, value in entry.items():
        try:
            values[key] = known[key].metadata["read"](value)
        except MedpairError:
            raise
        except ValueError as wanted:
            raise MedpairError(f"{key}: {value!r}, want {wanted}; correct it") from None
    for key in {"label", "over"} & set(values):
        values[key] = expand(values[key], schema)
    return cls(**values)


def expand(listed: tuple[str, ...], schema: LabelSchema) -> tuple[str, ...]:
    """Return the labels that a list of labels and groups names, each once.

    Raises:
        MedpairError: for a name that is neither.
    """
    found: dict[str, None] = {}
    for name in listed:
        ids = schema.groups.get(name) or (schema.id_of(name),)
        found |= dict.fromkeys(schema.names[i] for i in ids)
    return tuple(found)
