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
from gem3d.structures import ImpossibleError, LabelMap, Spacing

Applied = dict[str, Any]


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
