"""Operations on label maps, as data: what an edit file lists and what mask augmentation records.

Each operation is a small dataclass. `apply` returns the changed map and what was done in voxels;
an operation that finds nothing to work on changes nothing and says so. All is deterministic, so
applying the same list again gives the same map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from common.data.labels import LabelSchema
from common.errors import MedpairError
from gem3d import operation_fields as of
from gem3d import structures as st
from gem3d.operation_fields import option
from gem3d.structures import ImpossibleError, LabelMap, Mask, Spacing

Applied = dict[str, Any]
SURROUNDING = "surrounding"


@dataclass(frozen=True)
class Frame:
    """What an operation needs to know of a map: its schema, and its voxel size in mm (D, H, W)."""

    schema: LabelSchema
    spacing: Spacing

    @property
    def voxel(self) -> str:
        """The voxel size as text."""
        return " x ".join(f"{s:g}" for s in self.spacing) + " mm"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A change of a label map."""

    op: ClassVar[str] = ""

    def apply(self, label: LabelMap, frame: Frame) -> tuple[LabelMap, Applied]:
        """Return the changed map, and in voxels and mm what was done.

        Args:
            label: (D, H, W) uint8; not changed.
            frame: its schema and spacing.

        Raises:
            ImpossibleError: where the result would break the operation's own limits.
            MedpairError: for labels or places that the map does not have.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready form that `read_operations` reads back to an equal operation."""
        return {"op": self.op} | of.plain_fields(self)


@dataclass(frozen=True, kw_only=True)
class Flip(Operation):
    """Exchange left and right of the whole map, labels of the two sides included."""

    op: ClassVar[str] = "flip"

    def apply(self, label: LabelMap, frame: Frame) -> tuple[LabelMap, Applied]:
        """See `Operation`; W runs from left to right with either slice axis."""
        return np.ascontiguousarray(frame.schema.flip_lut[label][..., ::-1]), {"axis": "W"}


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
class Erode(Remove):
    """Take away what lies at most `mm` from the outside of a structure."""

    op: ClassVar[str] = "erode"
    mm: float = option(of.LENGTH)

    def change(self, label: LabelMap, where: Mask, frame: Frame) -> tuple[LabelMap, Applied]:
        """See `Remove`."""
        gone = where & ~st.eroded(where, self.mm, frame.spacing)
        result = self.vacated(label, gone, frame)
        st.check_remains(label[where], result[where & ~gone], frame.schema)
        return result, _said_if_none(int(gone.sum()), "removed_voxels", self.mm, frame)


@dataclass(frozen=True, kw_only=True)
class _Laid(Remove):
    """A structure laid down anew.

    Args:
        over: labels that it may take the place of; None is what surrounds it by the schema.
        clip: largest share of it that may be cut off because it would lie elsewhere.
    """

    over: tuple[str, ...] | None = option(of.names, None)
    clip: float = option(of.number(0, 1), 0.0)

    def free(self, label: LabelMap, where: Mask, frame: Frame) -> Mask:
        """Return the voxels that the structure may take: allowed labels and its own place."""
        names = self.over or st.surroundings(self.label, frame.schema)
        return np.asarray(np.isin(label, [frame.schema.id_of(n) for n in names]) | where)

    def lay(
        self, label: LabelMap, where: Mask, patch: st.Patch, frame: Frame
    ) -> tuple[LabelMap, Applied]:
        """Return the map with the structure in its new form, and how much was cut off."""
        ground = self.vacated(label, where, frame)
        free = self.free(ground, where, frame)
        result, lost = st.lay(ground, patch, free, self.clip, frame.schema)
        return result, {"voxels": int(where.sum()), "clipped_voxels": lost}

    def turn(
        self, label: LabelMap, where: Mask, pull: st.Floats, frame: Frame
    ) -> tuple[LabelMap, Applied]:
        """Return the map with the structure pulled about its centroid."""
        about = st.centroid(where)
        patch = st.turned(st.cut(label, where), pull, about, frame.schema.num_classes)
        st.check_remains(label[where], patch.label, frame.schema)
        result, applied = self.lay(label, where, patch, frame)
        return result, {"matrix": st.affine_of(pull, about)} | applied


@dataclass(frozen=True, kw_only=True)
class Move(_Laid):
    """Move a structure by the whole voxels nearest to `mm` (D, H, W), so that it keeps its form."""

    op: ClassVar[str] = "move"
    mm: tuple[float, ...] = option(of.SHIFT)

    def change(self, label: LabelMap, where: Mask, frame: Frame) -> tuple[LabelMap, Applied]:
        """See `Remove`."""
        voxels = [round(mm / s) for mm, s in zip(self.mm, frame.spacing, strict=True)]
        if not any(voxels):
            return label, {"said": f"shorter than half a voxel of {frame.voxel}"}
        result, applied = self.lay(label, where, st.cut(label, where).moved(voxels), frame)
        shift = [v * s for v, s in zip(voxels, frame.spacing, strict=True)]
        return result, {"shift_voxels": voxels, "shift_mm": shift} | applied


@dataclass(frozen=True, kw_only=True)
class Scale(_Laid):
    """Scale a structure about its centroid; `factor` is that of lengths."""

    op: ClassVar[str] = "scale"
    factor: float = option(of.number(0.1, 10))

    def change(self, label: LabelMap, where: Mask, frame: Frame) -> tuple[LabelMap, Applied]:
        """See `Remove`."""
        return self.turn(label, where, np.eye(3) / self.factor, frame)


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
        pull = st.pull_of(st.rotation(self.degrees), frame.spacing)
        about = (np.array(label.shape) - 1) / 2
        applied = {"matrix": st.affine_of(pull, about)}
        if not any(self.degrees):
            return label, applied
        return st.warp_map(label, pull, about, frame.schema.num_classes), applied

    def change(self, label: LabelMap, where: Mask, frame: Frame) -> tuple[LabelMap, Applied]:
        """See `Remove`."""
        pull = st.pull_of(st.rotation(self.degrees), frame.spacing)
        return self.turn(label, where, pull, frame)


@dataclass(frozen=True, kw_only=True)
class Dilate(_Laid):
    """Let a structure grow by `mm` into what surrounds it; it stops at other labels."""

    op: ClassVar[str] = "dilate"
    mm: float = option(of.LENGTH)

    def change(self, label: LabelMap, where: Mask, frame: Frame) -> tuple[LabelMap, Applied]:
        """See `Remove`."""
        free = self.free(label, where, frame)
        result = st.dilated(label, where, free, self.mm, frame.spacing)
        return result, _said_if_none(int((result != label).sum()), "added_voxels", self.mm, frame)


@dataclass(frozen=True, kw_only=True)
class AddSphere(Operation):
    """Give a label the voxels of a ball, as far as the labels there may be replaced.

    Args:
        label: one label's name.
        radius_mm: the ball's radius.
        centre: its middle in voxels (D, H, W).
        centre_fraction: its middle as a share of the grid (0.5 is the middle), instead of `centre`.
        over: labels that it may replace; None is what surrounds the label by the schema.
    """

    op: ClassVar[str] = "add_sphere"
    label: tuple[str, ...] = option(of.names)
    radius_mm: float = option(of.LENGTH)
    centre: tuple[float, ...] | None = option(of.PLACE, None)
    centre_fraction: tuple[float, ...] | None = option(of.FRACTION, None)
    over: tuple[str, ...] | None = option(of.names, None)

    def __post_init__(self) -> None:
        if len(self.label) != 1:
            raise MedpairError(f"label: {', '.join(self.label)}, want one label; name one")
        if (self.centre is None) == (self.centre_fraction is None):
            raise MedpairError(
                "centre: want either centre (voxels) or centre_fraction (0..1); give one of them"
            )

    def apply(self, label: LabelMap, frame: Frame) -> tuple[LabelMap, Applied]:
        """See `Operation`."""
        centre = self._place(label.shape)
        ball = st.sphere(label.shape, centre, self.radius_mm, frame.spacing)
        names = self.over or st.surroundings(self.label, frame.schema)
        free = np.isin(label, [frame.schema.id_of(n) for n in names])
        new = ball & free
        if not new.any():
            raise ImpossibleError(
                f"no voxel of {', '.join(names)} within {self.radius_mm:g} mm of voxel "
                f"{[round(c, 1) for c in centre]}; choose another centre or over"
            )
        identity = np.uint8(frame.schema.id_of(self.label[0]))
        return np.where(new, identity, label), {
            "centre_voxel": centre,
            "added_voxels": int(new.sum()),
            "clipped_voxels": int((ball & ~free & (label != identity)).sum()),
        }

    def _place(self, shape: Sequence[int]) -> list[float]:
        if self.centre_fraction is not None:
            return [f * (n - 1) for f, n in zip(self.centre_fraction, shape, strict=True)]
        centre = [float(c) for c in self.centre or ()]
        if any(c > n - 1 for c, n in zip(centre, shape, strict=True)):
            raise MedpairError(
                f"centre: voxel {centre} is outside the grid of {list(shape)} voxels (D, H, W); "
                "choose one inside"
            )
        return centre


def _said_if_none(count: int, key: str, mm: float, frame: Frame) -> Applied:
    if count:
        return {key: count}
    return {key: 0, "said": f"{mm:g} mm reaches no voxel of {frame.voxel}"}
