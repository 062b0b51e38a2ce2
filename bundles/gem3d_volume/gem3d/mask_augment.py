"""Mask augmentation: a new, anatomically possible mask from a real one, and how it was made.

The mask is flipped, rotated as a whole, then named structures are scaled, grown or moved towards
the middle of what contains them. Each step draws again when its result is impossible. The record
holds the operations that were applied, so `replay` makes the same mask from the same original.

Source: GEM-3D, section 3.3 and Appendix A; the settings of its data sets are
`mask_augmentation/*.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from common.data.anatomy import TOLERANCE
from common.data.labels import LabelSchema
from common.errors import MedpairError
from gem3d import structures as st
from gem3d.operation_fields import FAR_MM, expand, number
from gem3d.operation_lists import apply_operations, read_operations, rules_broken, rules_kept
from gem3d.operations import Applied, Flip, Frame, Operation
from gem3d.structure_operations import Reshape, Rotate
from gem3d.structures import ImpossibleError, LabelMap

Record = dict[str, Any]
Proposal = tuple[list[Operation], str]
_DRAWS = 6  # uniform numbers per try, whatever a step needs of them: tries stay independent


@dataclass(frozen=True)
class StructureRanges:
    """How one structure may change; what is not given stays as it is.

    Args:
        labels: names of labels or groups that change together, as one structure.
        translate_mm: least and largest way towards the middle of what surrounds the structure;
            it ends in the middle.
        shift_mm: largest further shift along each axis, either way.
        scale: smallest and largest factor of its lengths.
        grow_mm: least and largest growth of its surface; negative values erode.
        over: labels that it may take the place of; None is what surrounds it by the schema.
        fill: the label that vacated voxels get, or "surrounding" for the nearest one; None is what
            surrounds the structure by the schema.
        clip: largest share of it that other labels may cut off.
    """

    labels: Sequence[str]
    translate_mm: Sequence[float] = (0.0, 0.0)
    shift_mm: float = 0.0
    scale: Sequence[float] = (1.0, 1.0)
    grow_mm: Sequence[float] = (0.0, 0.0)
    over: Sequence[str] | None = None
    fill: str | None = None
    clip: float = 0.0

    def __post_init__(self) -> None:
        _check_range("translate_mm", self.translate_mm, 0, FAR_MM / 2, pair=True)
        _check_range("shift_mm", self.shift_mm, 0, FAR_MM / 4)
        _check_range("scale", self.scale, 0.1, 10, pair=True)
        _check_range("grow_mm", self.grow_mm, -FAR_MM, FAR_MM, pair=True)
        _check_range("clip", self.clip, 0, 1)

    def propose(self, label: LabelMap, u: Sequence[float], frame: Frame) -> Proposal:
        """Turn uniform numbers in [0, 1) into operations on a map.

        Returns:
            Operations in order, and why there are none.
        """
        names = expand(tuple(self.labels), frame.schema)
        where = st.select(label, [frame.schema.id_of(name) for name in names])
        if not where.any():
            return [], f"no voxel of {', '.join(names)}"
        over = expand(tuple(self.over), frame.schema) if self.over else None
        shift = self._way(label, where, names, u[2], frame)
        shift += self.shift_mm * (2 * np.array(u[3:6]) - 1)
        found = Reshape(
            label=names,
            factor=_between(self.scale, u[0]),
            mm=tuple(shift.tolist()),
            grow_mm=_between(self.grow_mm, u[1]),
            over=over,
            fill=self.fill,
            clip=self.clip,
        )
        return [found], ""

    def _way(
        self, label: LabelMap, where: st.Mask, names: Sequence[str], u: float, frame: Frame
    ) -> st.Floats:
        """Return the shift in mm towards the middle of the surroundings."""
        ids = st.support_ids(st.surroundings(names, frame.schema), frame.schema)
        support = np.isin(label, ids) if ids else label > 0
        way = (st.centroid(support) - st.centroid(where)) * np.array(frame.spacing)
        distance = float(np.linalg.norm(way))
        low, high = (min(mm, distance) for mm in self.translate_mm)
        return np.asarray(way * (_between((low, high), u) / distance) if distance else way)


@dataclass(frozen=True)
class Augmented:
    """An augmented mask (D, H, W) uint8, and the JSON-ready record of what was drawn and done."""

    label: LabelMap
    record: Record


@dataclass(frozen=True)
class MaskAugmentation:
    """Random changes of a mask; the defaults change nothing but side and, slightly, pose.

    Args:
        flip: probability of exchanging left and right.
        rotate_degrees: largest angle about each axis, either way.
        structures: changes of structures, one after the other.
        tries: draws per step before it is left out.
    """

    flip: float = 0.5
    rotate_degrees: float = 2.5
    structures: Sequence[StructureRanges] = ()
    tries: int = 20

    def __post_init__(self) -> None:
        _check_range("flip", self.flip, 0, 1)
        _check_range("rotate_degrees", self.rotate_degrees, 0, 180)
        _check_range("tries", self.tries, 1, 10_000)

    def __call__(
        self,
        label: LabelMap,
        schema: LabelSchema,
        spacing: Sequence[float],
        generator: torch.Generator,
    ) -> Augmented:
        """Draw and apply one augmentation.

        Args:
            label: (D, H, W) uint8; not changed.
            schema: its schema.
            spacing: mm (D, H, W).
            generator: source of all random numbers; how many it gives depends on the settings only.

        Returns:
            The augmented mask and its record. A step without its structure, or without a possible
            result, leaves the mask as it was and is `said` in the record.

        Raises:
            MedpairError: for a mask that does not fit the schema, or settings that name labels
                that the schema does not have.
        """
        frame = Frame(schema, _checked_spacing(spacing))
        kept = rules_kept(label, schema)
        current, steps = label.copy(), []
        for name, propose in self._steps():
            size = (self.tries, _DRAWS)
            draws = torch.rand(size, generator=generator, dtype=torch.float64).tolist()
            current, step = _take(current, propose, draws, frame, kept)
            steps.append({"step": name} | step)
        return Augmented(
            current,
            {
                "schema": schema.name,
                "size": list(label.shape),
                "spacing_mm": list(frame.spacing),
                "settings": self.to_dict(),
                "steps": steps,
                "changed_voxels": int((current != label).sum()),
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, JSON-ready."""
        structures = [
            {k: v if isinstance(v, str | float | int | None) else list(v) for k, v in s.items()}
            for s in (asdict(ranges) for ranges in self.structures)
        ]
        return asdict(self) | {"structures": structures}

    def _steps(self) -> list[tuple[str, Callable[[LabelMap, Sequence[float], Frame], Proposal]]]:
        structures = [(f"structure {', '.join(s.labels)}", s.propose) for s in self.structures]
        return [("flip", self._flip), ("rotate", self._rotate), *structures]

    def _flip(self, _label: LabelMap, u: Sequence[float], _frame: Frame) -> Proposal:
        return ([Flip()], "") if u[0] < self.flip else ([], "not drawn")

    def _rotate(self, _label: LabelMap, u: Sequence[float], _frame: Frame) -> Proposal:
        if not self.rotate_degrees:
            return [], "not asked for"
        return [Rotate(degrees=tuple(self.rotate_degrees * (2 * x - 1) for x in u[:3]))], ""


def replay(label: LabelMap, record: Mapping[str, Any], schema: LabelSchema) -> LabelMap:
    """Make an augmented mask again.

    Args:
        label: the original mask, (D, H, W) uint8.
        record: the augmentation's record, as it was or read back from JSON.
        schema: the mask's schema.

    Returns:
        The augmented mask, equal to the first one.

    Raises:
        MedpairError: for a record of another schema or size.
    """
    if record["schema"] != schema.name or list(label.shape) != list(record["size"]):
        raise MedpairError(
            f"record: schema {record['schema']}, size {record['size']}, want {schema.name}, "
            f"{list(label.shape)} as the mask has; give the record of this mask"
        )
    entries = [entry for step in record["steps"] for entry in step["operations"]]
    if not entries:
        return label.copy()
    frame = Frame(schema, _checked_spacing(record["spacing_mm"]))
    return apply_operations(label, read_operations(entries, schema, "record"), frame)[0]


def _take(
    label: LabelMap,
    propose: Callable[[LabelMap, Sequence[float], Frame], Proposal],
    draws: Sequence[Sequence[float]],
    frame: Frame,
    kept: set[tuple[str, str]],
) -> tuple[LabelMap, Record]:
    """Take the first possible draw of a step."""
    rejected: list[Record] = []
    for u in draws:
        operations, why_none = propose(label, u, frame)
        entries = [operation.to_dict() for operation in operations]
        if not operations:
            return label, _step([], [], rejected, why_none)
        try:
            result, applied = apply_operations(label, operations, frame)
            _check_possible(label, result, frame, kept)
        except ImpossibleError as error:
            rejected.append({"operations": entries, "why": str(error)})
            continue
        said = "; ".join(a["said"] for a in applied if "said" in a)
        return result, _step(entries, applied, rejected, said)
    why = rejected[-1]["why"]
    return label, _step(
        [], [], rejected, f"left out: none of {len(draws)} tries fits (last: {why})"
    )


def _step(
    operations: list[Record], applied: list[Applied], rejected: list[Record], said: str
) -> Record:
    step: Record = {"operations": operations, "applied": applied, "rejected": rejected}
    return step | ({"said": said} if said else {})


def _check_possible(
    before: LabelMap, after: LabelMap, frame: Frame, kept: set[tuple[str, str]]
) -> None:
    """Refuse a map that lost what the grid held, or rules that the original kept."""
    volume = int((before > 0).sum())
    change = abs(int((after > 0).sum()) - volume)
    if change > TOLERANCE * volume:
        raise ImpossibleError(
            f"the labelled volume changes by {change / volume:.1%}, want at most {TOLERANCE:.0%}"
        )
    broken = rules_broken(kept, after, frame.schema)
    if broken:
        raise ImpossibleError(f"breaks {', '.join(broken)}")


def _between(bounds: Sequence[float], u: float) -> float:
    return float(bounds[0] + u * (bounds[1] - bounds[0]))


def _check_range(key: str, value: Any, low: float, high: float, *, pair: bool = False) -> None:
    """Refuse what is no number, or with `pair` no (least, largest), within bounds."""
    read = number(low, high)
    try:
        values = [read(v) for v in value] if pair else [read(value)]
    except (TypeError, ValueError):
        values = []
    if len(values) != 1 + pair or values != sorted(values):
        want = "a least and a largest number" if pair else "a number"
        raise MedpairError(
            f"mask_augmentation#{key}: {value!r}, want {want} {low:g}..{high:g}; correct it"
        )


def _checked_spacing(spacing: Sequence[float]) -> st.Spacing:
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise MedpairError(f"spacing: {list(spacing)}, want three lengths in mm above 0")
    return float(spacing[0]), float(spacing[1]), float(spacing[2])
