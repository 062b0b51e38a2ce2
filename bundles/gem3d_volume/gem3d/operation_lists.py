"""Lists of operations: read from YAML or a record, apply in order, judge by anatomical rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from common.data import anatomy
from common.data.labels import LabelSchema
from common.errors import MedpairError
from gem3d.operation_fields import read_fields
from gem3d.operations import AddSphere, Applied, Flip, Frame, Operation
from gem3d.structure_operations import (
    SURROUNDING,
    Dilate,
    Erode,
    Move,
    Remove,
    Reshape,
    Rotate,
    Scale,
)
from gem3d.structures import LabelMap

Rule = tuple[str, str]

OPERATIONS: dict[str, type[Operation]] = {
    kind.op: kind for kind in (Move, Scale, Rotate, Erode, Dilate, Reshape, Remove, AddSphere, Flip)
}


def read_operations(
    entries: Sequence[Mapping[str, Any]], schema: LabelSchema, origin: str
) -> tuple[Operation, ...]:
    """Read a list of operations.

    Args:
        entries: mappings with `op` and the operation's fields, as from YAML or a record.
        schema: knows the labels and groups that they may name.
        origin: file or key named in errors.

    Returns:
        The operations; labels are spelled out where a group was named.

    Raises:
        MedpairError: for an unknown operation, key, label, or value, with the entry's number.
    """
    if not isinstance(entries, list | tuple) or not entries:
        raise MedpairError(
            f"{origin}: {type(entries).__name__} {entries!r:.40}, want a list of operations such "
            "as - {op: move, label: lesion, mm: [5, 0, 0]}; correct it"
        )
    return tuple(_read_one(e, schema, f"{origin}, entry {i + 1}") for i, e in enumerate(entries))


def _read_one(entry: Mapping[str, Any], schema: LabelSchema, origin: str) -> Operation:
    op = entry.get("op") if isinstance(entry, Mapping) else None
    if not isinstance(op, str) or op not in OPERATIONS:
        seen = f"op {op!r}" if isinstance(entry, Mapping) else f"{entry!r:.40}"
        raise MedpairError(f"{origin}: {seen}, want op: {', '.join(OPERATIONS)}; choose one")
    try:
        rest = {key: value for key, value in entry.items() if key != "op"}
        operation: Operation = read_fields(OPERATIONS[op], rest, schema)
        _check_structure(operation, schema)
    except MedpairError as error:
        raise MedpairError(f"{origin} ({op}): {error}") from error
    return operation


def _check_structure(operation: Operation, schema: LabelSchema) -> None:
    """Refuse background and container: nothing surrounds them, so no rule says what fills them."""
    fixed = {"background", schema.container.name if schema.container else "background"}
    names = getattr(operation, "label", ())
    for name in fixed & set(names):
        raise MedpairError(f"label: '{name}' is what structures lie in; choose a structure")
    fill = getattr(operation, "fill", None)
    if fill not in (None, SURROUNDING) and schema.id_of(fill) and fill in names:
        raise MedpairError(f"fill: '{fill}' is the structure itself; choose another label")


def apply_operations(
    label: LabelMap, operations: Sequence[Operation], frame: Frame
) -> tuple[LabelMap, list[Applied]]:
    """Apply operations one after the other.

    Args:
        label: (D, H, W) uint8; not changed.
        operations: what to do.
        frame: the map's schema and spacing.

    Returns:
        The changed map, and per operation what was done.

    Raises:
        ImpossibleError: where an operation would break its own limits.
    """
    done: list[Applied] = []
    for operation in operations:
        label, applied = operation.apply(label, frame)
        done.append(applied)
    return label, done


def rules_kept(label: LabelMap, schema: LabelSchema) -> set[Rule]:
    """Return the anatomical rules that a map keeps, as (rule, label), and what labels it shows.

    A label that is there counts as the rule "present" whether the schema requires it or not.

    Raises:
        MedpairError: for a map that does not fit the schema.
    """
    kept = {(r.rule, r.label) for r in anatomy.check(label, schema) if r.passed}
    counts = np.bincount(label.ravel(), minlength=schema.num_classes)
    return kept | {("present", schema.names[i]) for i in np.flatnonzero(counts) if i}


def rules_broken(kept: Collection[Rule], label: LabelMap, schema: LabelSchema) -> list[str]:
    """Return the rules that were kept before and are not kept by a map, as "rule label"."""
    gone = set(kept) - rules_kept(label, schema)
    # a label that vanished has no pieces and no container: one reason is enough
    absent = {name for rule, name in gone if rule == "present"}
    return sorted(f"{r} {n}" for r, n in gone if r == "present" or n not in absent)
