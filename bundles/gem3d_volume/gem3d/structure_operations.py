"""Operations on one structure: labels that are removed, moved, scaled, turned, grown together.

Each lifts the structure off the map, fills what it leaves, and lays it down in its new form on that
ground, so that nothing it passes on its way is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.data.labels import LabelSchema
from gem3d import operation_fields as of
from gem3d import structures as st
from gem3d.operation_fields import option
from gem3d.operations import Applied, Frame, Operation
from gem3d.structures import LabelMap, Mask

SURROUNDING = "surrounding"
Form = tuple[st.Floats | None, Sequence[float], float]


@dataclass(frozen=True, kw_only=True)
class Remove(Operation):
    """Take a structure away.

    Args:
        label: names of labels or groups, treated as one structure.
        at: a voxel of the one piece that is meant; None means all.
        fill: the label that vacated voxels get, or "surrounding" for the nearest one; None is the
            label that surrounds the structure by the schema.
    """

    op: ClassVar[str] = "remove"
    label: tuple[str, ...] = option(of.names)
    at: tuple[int, ...] | None = option(of.voxel, None)
    fill: str | None = option(of.word, None)

    def apply(self, label: LabelMap, frame: Frame) -> tuple[LabelMap, Applied]:
        """See `Operation`."""
        where = st.select(label, self.ids(frame.schema), self.at)
        if not where.any():
            return label, {"said": f"no voxel of {', '.join(self.label)}"}
        return self.change(label, where, frame)

    def change(self, label: LabelMap, where: Mask, frame: Frame) -> tuple[LabelMap, Applied]:
        """Return the map changed where the structure, which is not empty, lies."""
        return self.vacated(label, where, frame), {"removed_voxels": int(where.sum())}

    def ids(self, schema: LabelSchema) -> list[int]:
        """Return the structure's label ids."""
        return [schema.id_of(name) for name in self.label]

    def vacated(self, label: LabelMap, where: Mask, frame: Frame) -> LabelMap:
        """Return the map without some voxels of the structure."""
        name = self.fill or st.surroundings(self.label, frame.schema)[0]
        if name == SURROUNDING:
            return st.fill_with_nearest(label, where, self.ids(frame.schema), frame.spacing)
        return np.where(where, np.uint8(frame.schema.id_of(name)), label)


@dataclass(frozen=True, kw_only=True)
class _Laid(Remove):
    """A structure laid down anew.

    Args:
        over: labels that it may take the place of; None is what surrounds it by the schema.
        clip: largest share of it that may be cut off because it would lie elsewhere.
    """

    over: tuple[str, ...] | None = option(of.names, None)
    clip: float = option(of.number(0, 1), 0.0)

    def form(self, frame: Frame) -> Form:
        """Return the pull about the centroid (None: none), the shift and the growth in mm."""
        raise NotImplementedError

    def change(self, label: LabelMap, where: Mask, frame: Frame) -> tuple[LabelMap, Applied]:
        """See `Remove`."""
        pull, shift_mm, grow_mm = self.form(frame)
        ground, patch = self.vacated(label, where, frame), st.cut(label, where)
        names = self.over or st.surroundings(self.label, frame.schema)
        free = np.isin(ground, [frame.schema.id_of(n) for n in names]) | where
        applied: Applied = {"voxels": int(where.sum())}
        if pull is not None:
            about = st.centroid(where)
            patch = st.turned(patch, pull, about, frame.schema.num_classes)
            st.check_remains(label[where], patch.label, frame.schema)
            applied["matrix"] = st.affine_of(pull, about)
        voxels = [round(mm / s) for mm, s in zip(shift_mm, frame.spacing, strict=True)]
        if any(voxels):
            shift = [v * s for v, s in zip(voxels, frame.spacing, strict=True)]
            applied |= {"shift_voxels": voxels, "shift_mm": shift}
        laid, at, lost = st.lay(ground, patch.moved(voxels), free, self.clip, frame.schema)
        result, more = _grown(ground, laid, at, free, grow_mm, frame)
        applied |= {"clipped_voxels": lost, "grown_voxels": more}
        if (result == label).all():
            applied["said"] = f"too little to change a voxel of {frame.voxel}"
        return result, applied


def _grown(
    ground: LabelMap, laid: LabelMap, at: Mask, free: Mask, mm: float, frame: Frame
) -> tuple[LabelMap, int]:
    """Grow the structure at some voxels of a map, or erode it back to the ground."""
    if mm > 0:
        grown = st.dilated(laid, at, free & ~at, mm, frame.spacing)
        return grown, int((grown != laid).sum())
    if mm < 0:
        kept = st.eroded(at, -mm, frame.spacing)
        st.check_remains(laid[at], laid[kept], frame.schema)
        return np.where(at & ~kept, ground, laid), int(kept.sum()) - int(at.sum())
    return laid, 0


_STAY = (0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Move(_Laid):
    """Move a structure by the whole voxels nearest to `mm` (D, H, W), so that it keeps its form."""

    op: ClassVar[str] = "move"
    mm: tuple[float, ...] = option(of.SHIFT)

    def form(self, _frame: Frame) -> Form:
        """See `_Laid`."""
        return None, self.mm, 0.0


@dataclass(frozen=True, kw_only=True)
class Scale(_Laid):
    """Scale a structure about its centroid; `factor` is that of lengths."""

    op: ClassVar[str] = "scale"
    factor: float = option(of.number(0.1, 10))

    def form(self, _frame: Frame) -> Form:
        """See `_Laid`."""
        return np.eye(3) / self.factor, _STAY, 0.0


@dataclass(frozen=True, kw_only=True)
class Erode(_Laid):
    """Take away what lies at most `mm` from the outside of a structure."""

    op: ClassVar[str] = "erode"
    mm: float = option(of.LENGTH)

    def form(self, _frame: Frame) -> Form:
        """See `_Laid`."""
        return None, _STAY, -self.mm


@dataclass(frozen=True, kw_only=True)
class Dilate(_Laid):
    """Let a structure grow by `mm` into what surrounds it; it stops at other labels."""

    op: ClassVar[str] = "dilate"
    mm: float = option(of.LENGTH)

    def form(self, _frame: Frame) -> Form:
        """See `_Laid`."""
        return None, _STAY, self.mm


@dataclass(frozen=True, kw_only=True)
class Reshape(_Laid):
    """Scale, then move, then grow (or with a negative length erode) a structure, all at once."""

    op: ClassVar[str] = "reshape"
    factor: float = option(of.number(0.1, 10), 1.0)
    mm: tuple[float, ...] = option(of.SHIFT, _STAY)
    grow_mm: float = option(of.number(-of.FAR_MM, of.FAR_MM), 0.0)

    def form(self, _frame: Frame) -> Form:
        """See `_Laid`."""
        pull = None if self.factor == 1 else np.eye(3) / self.factor
        return pull, self.mm, self.grow_mm


@dataclass(frozen=True, kw_only=True)
class Rotate(_Laid):
    """Rotate the whole map about its middle, or a structure about its centroid.

    Args:
        degrees: about D (H turns towards W), about H (D towards W), about W (D towards H).
    """

    op: ClassVar[str] = "rotate"
    label: tuple[str, ...] = option(of.names, ())
    degrees: tuple[float, ...] = option(of.DEGREES)

    def apply(self, label: LabelMap, frame: Frame) -> tuple[LabelMap, Applied]:
        """See `Operation`."""
        if self.label:
            return super().apply(label, frame)
        pull, _, _ = self.form(frame)
        about = (np.array(label.shape) - 1) / 2
        if pull is None:
            return label, {"said": "no angle"}
        applied = {"matrix": st.affine_of(pull, about)}
        return st.warp_map(label, pull, about, frame.schema.num_classes), applied

    def form(self, frame: Frame) -> Form:
        """See `_Laid`."""
        push = st.rotation(self.degrees)
        return (st.pull_of(push, frame.spacing) if any(self.degrees) else None), _STAY, 0.0
