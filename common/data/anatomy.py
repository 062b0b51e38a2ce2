"""Anatomical rules of a label schema: check a label map against them and clean it up.

The rules follow from the schema alone. ``inside`` names the container of a label, ``components``
the number of pieces it may have (for a container: the pieces of its support, that is, of itself and
all that lies in it). Labels are joined over faces, edges and corners (26 neighbours), empty space
over faces only (6), so that a thin oblique sheet of a label separates what lies on its two sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.measure import label as connected
from skimage.segmentation import watershed

from common.data.labels import Label, LabelSchema
from common.errors import MedpairError

LabelMap = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

SPECK_SHARE = 0.005
"""A piece smaller than this share of its label's volume is a speck: noise, not a component."""

TOLERANCE = 0.03
"""Share of a label's volume that may be specks, holes or outside its container: less passes."""

RULES = ("present", "components", "specks", "holes", "containment")


@dataclass(frozen=True)
class RuleResult:
    """One rule applied to one label of one map.

    Attributes:
        rule: one of ``RULES``.
        label: name of the label.
        seen: the measured voxels, pieces or share of the label's volume.
        limit: the least (rule ``present``) or the largest (all others) value that passes.
        passed: whether the label keeps the rule.
    """

    rule: str
    label: str
    seen: float
    limit: float
    passed: bool


@dataclass(frozen=True)
class _Pieces:
    """Pieces of equal label: ``index`` 1..n per voxel; per piece its label id and its voxels."""

    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]

    def of(self, label_id: int) -> npt.NDArray[np.int64]:
        """Return the numbers of a label's pieces, largest first, ties in scan order."""
        pieces = np.flatnonzero(self.label == label_id)
        return pieces[np.argsort(-self.size[pieces], kind="stable")]


def check(label: LabelMap, schema: LabelSchema) -> tuple[RuleResult, ...]:
    """Apply every rule of the schema to one label map.

    Args:
        label: (D, H, W) uint8 label map, ids 0..K.
        schema: the schema of the label map.

    Returns:
        One result per rule and label, in schema order; rules that the schema does not set are left
        out.

    Raises:
        MedpairError: if the map is not three-dimensional or holds ids outside the schema.
    """
    _check_map(label, schema)
    pieces = _pieces(label)
    holes = _holes(label, schema)
    volume = np.bincount(label.ravel(), minlength=schema.num_classes)
    results: list[RuleResult] = []
    for item in schema.labels:
        results += _check_presence(item, int(volume[item.id]))
        if volume[item.id]:
            results += _check_pieces(item, schema, pieces)
            if item.fill_holes:
                results.append(_at_most("holes", item, (holes == item.id).sum() / volume[item.id]))
            results += _check_containment(label, item, schema)
    return tuple(results)


def anatomy_report(labels: Sequence[LabelMap], schema: LabelSchema) -> dict[str, object]:
    """Return the share of label maps that keep the anatomical rules.

    Args:
        labels: (D, H, W) uint8 label maps.
        schema: their schema.

    Returns:
        ``n``; ``all``: share that keeps every rule; ``rules``: per rule the share that keeps it for
        every label; ``labels``: the same per rule and label, with the worst value seen.

    Raises:
        MedpairError: if there is no map, or one does not fit the schema.
    """
    if not labels:
        raise MedpairError(
            "labels: 0 label maps, at least 1 wanted; generate or prepare some first"
        )
    results = [check(label, schema) for label in labels]
    return {
        "n": len(labels),
        "all": float(np.mean([all(r.passed for r in result) for result in results])),
        "rules": {rule: _share(results, rule, None) for rule in RULES},
        "labels": {item.name: _label_report(results, item.name) for item in schema.labels},
    }


def clean_up(label: LabelMap, schema: LabelSchema) -> LabelMap:
    """Repair a label map by the rules of its schema.

    Pieces outside the container become background; of every label with an allowance the specks and
    all but the largest allowed pieces are given to the labels around them; holes are filled with
    the label around them; background enclosed by labels becomes container. The result is a fixed
    point: cleaning it again changes nothing.

    Args:
        label: (D, H, W) uint8 label map, ids 0..K; not changed.
        schema: the schema of the label map.

    Returns:
        A new (D, H, W) uint8 label map.

    Raises:
        MedpairError: if the map is not three-dimensional or holds ids outside the schema.
    """
    _check_map(label, schema)
    current = label.copy()
    while (
        True
    ):  # ends: every change lowers the number of pieces (or turns an empty piece into container)
        cleaned = _remove_outside(current, schema)
        cleaned = _reassign(cleaned, _surplus(cleaned, schema))
        cleaned = _fill(cleaned, schema)
        if np.array_equal(cleaned, current):
            return cleaned
        current = cleaned


def _check_map(label: LabelMap, schema: LabelSchema) -> None:
    if label.ndim != 3 or label.dtype != np.uint8:
        raise MedpairError(
            f"label: shape {label.shape} of {label.dtype}, (D, H, W) of uint8 wanted; convert the "
            "label map first"
        )
    if label.size and int(label.max()) >= schema.num_classes:
        raise MedpairError(
            f"label: id {int(label.max())}, 0..{schema.num_classes - 1} of schema '{schema.name}' "
            "wanted; remap the label map first"
        )


def _pieces(label: LabelMap) -> _Pieces:
    index = connected(label, background=0, connectivity=3).astype(np.int64)
    size = np.bincount(index.ravel())
    ids = np.zeros(size.size, np.int64)
    ids[index.ravel()] = label.ravel()
    size[0] = 0
    return _Pieces(index, ids, size)


def _allowance(item: Label, schema: LabelSchema) -> int | None:
    """Return how many pieces a label may have; the container's number is that of its support."""
    return None if item.id == schema.container_id else item.components


def _check_presence(item: Label, volume: int) -> list[RuleResult]:
    if not item.required:
        return []
    return [RuleResult("present", item.name, float(volume), 1.0, volume > 0)]


def _check_pieces(item: Label, schema: LabelSchema, pieces: _Pieces) -> list[RuleResult]:
    allowed = _allowance(item, schema)
    if allowed is None:
        return []
    size = pieces.size[pieces.of(item.id)]
    count = int((size >= SPECK_SHARE * size.sum()).sum())
    specks = size[size < SPECK_SHARE * size.sum()].sum() / size.sum()
    return [
        RuleResult("components", item.name, float(count), float(allowed), count <= allowed),
        _at_most("specks", item, specks),
    ]


def _check_containment(label: LabelMap, item: Label, schema: LabelSchema) -> list[RuleResult]:
    outside = _outside(label, item, schema)
    if outside is None:
        return []
    return [_at_most("containment", item, outside.sum() / (label == item.id).sum())]


def _at_most(rule: str, item: Label, seen: float) -> RuleResult:
    return RuleResult(rule, item.name, float(seen), TOLERANCE, bool(seen <= TOLERANCE))


def _share(results: Sequence[Sequence[RuleResult]], rule: str, name: str | None) -> float | None:
    """Return the share of maps that keep a rule, for one label or for all; None if not set."""
    picked = [
        [r for r in result if r.rule == rule and name in (None, r.label)] for result in results
    ]
    if not any(picked):
        return None
    return float(np.mean([all(r.passed for r in result) for result in picked]))


def _label_report(results: Sequence[Sequence[RuleResult]], name: str) -> dict[str, object]:
    report: dict[str, object] = {}
    for rule in RULES:
        seen = [r.seen for result in results for r in result if r.rule == rule and r.label == name]
        if seen:
            worst = min(seen) if rule == "present" else max(seen)
            report[rule] = {"share": _share(results, rule, name), "worst": worst}
    return report


def _support(schema: LabelSchema, name: str) -> list[int]:
    """Return the ids of a container and of everything inside it, at any depth."""
    found = {name}
    while True:
        grown = found | {item.name for item in schema.labels if item.inside in found}
        if grown == found:
            return [item.id for item in schema.labels if item.name in found]
        found = grown


def _outside(label: LabelMap, item: Label, schema: LabelSchema) -> Mask | None:
    """Return the voxels of a label cut off from its container's main pieces; None without one."""
    if item.inside is None:
        return None
    container = next(other for other in schema.labels if other.name == item.inside)
    support = np.isin(label, _support(schema, container.name))
    pieces = _pieces(support.astype(np.uint8))
    main = pieces.of(1)[: container.components or 1]
    return np.asarray((label == item.id) & ~np.isin(pieces.index, main))


def _remove_outside(label: LabelMap, schema: LabelSchema) -> LabelMap:
    cleaned = label.copy()
    for item in schema.labels:
        outside = _outside(label, item, schema)
        if outside is not None:
            cleaned[outside] = 0
    return cleaned


def _surplus(label: LabelMap, schema: LabelSchema) -> Mask:
    """Mark the specks of every label with an allowance and its pieces beyond the allowance."""
    pieces = _pieces(label)
    drop = np.zeros(pieces.size.size, np.bool_)
    for item in schema.labels:
        allowed = _allowance(item, schema)
        if allowed is not None:
            ordered = pieces.of(item.id)
            drop[ordered] = pieces.size[ordered] < SPECK_SHARE * pieces.size[ordered].sum()
            drop[ordered[allowed:]] = True
    return np.asarray(drop[pieces.index])


def _reassign(label: LabelMap, drop: Mask) -> LabelMap:
    """Grow the other labels and the background evenly, face by face, into the dropped voxels."""
    if not drop.any():
        return label
    box = _box(drop)
    cleaned = label.copy()
    marker = np.where(drop, 0, label.astype(np.int32) + 1)[box]
    flat = np.zeros(marker.shape, np.uint8)
    cleaned[box] = (watershed(flat, marker, connectivity=1) - 1).astype(np.uint8)
    return cleaned


def _box(mask: Mask) -> tuple[slice, ...]:
    """Return the bounding box of a non-empty mask, one voxel wider where the array allows."""
    axes = range(mask.ndim)
    spans = [np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    return tuple(slice(max(int(s[0]) - 1, 0), int(s[-1]) + 2) for s in spans)


def _holes(label: LabelMap, schema: LabelSchema) -> LabelMap:
    """Return the id of the label that each hole voxel should have, 0 elsewhere.

    A hole of a label is a piece of background or container that only this label borders and that
    does not reach the border of the volume; enclosed background that is no such hole is a hole of
    the container.
    """
    container = schema.container_id or 0
    fills = np.array([False, *(item.fill_holes for item in schema.labels)])
    index, rim = _enclosed(np.isin(label, (0, container)), label, schema)
    owner = np.where(rim.sum(1) == 1, rim.argmax(1), 0)
    found: LabelMap = np.where(fills[owner], owner, 0).astype(np.uint8)[index]
    if container and fills[container]:
        index, rim = _enclosed(label == 0, label, schema)
        found = np.where((found == 0) & np.asarray(rim.any(1))[index], np.uint8(container), found)
    return found


def _enclosed(
    free: Mask, label: LabelMap, schema: LabelSchema
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the pieces of free space, and the labels around each that is fully enclosed."""
    index = connected(free, background=0, connectivity=1).astype(np.int64)
    rim = _bordering(index, label, schema.num_classes)
    rim[np.unique(_shell(index))] = False
    rim[0] = False
    return index, rim


def _bordering(
    index: npt.NDArray[np.int64], label: LabelMap, num_classes: int
) -> npt.NDArray[np.bool_]:
    """Return which labels touch which free piece over a face: (pieces + 1, num_classes)."""
    touches = np.zeros((int(index.max()) + 1, num_classes), np.bool_)
    for axis in range(index.ndim):
        low = (*[slice(None)] * axis, slice(None, -1))
        high = (*[slice(None)] * axis, slice(1, None))
        for here, there in ((low, high), (high, low)):
            face = (index[here] > 0) & (index[there] == 0)
            touches[index[here][face], label[there][face]] = True
    return touches


def _shell(index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the values on the six outer faces of the volume."""
    faces = [
        np.take(index, end, axis=axis).ravel() for axis in range(index.ndim) for end in (0, -1)
    ]
    return np.concatenate(faces)


def _fill(label: LabelMap, schema: LabelSchema) -> LabelMap:
    holes = _holes(label, schema)
    return np.where(holes > 0, holes, label)
