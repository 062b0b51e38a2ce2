"""Structures of a label map: pick them out, turn them, lay them down elsewhere, let them grow.

A label map is (D, H, W) uint8. Places are in voxels, lengths in mm, both in the order D, H, W: the
axes run towards superior, anterior, right (slice axis SI) or anterior, superior, right (AP). Maps
of places are pulls: they lead from a voxel of the result to the voxel that it is read from.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt
from skimage.measure import label as connected

from common.data.augment import Warp, warp_grid, warp_labels
from common.data.geometry import bounding_box
from common.data.labels import LabelSchema
from common.errors import MedpairError

LabelMap = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Spacing = tuple[float, float, float]

_TURNS = ((1, 2), (0, 2), (0, 1))  # about D, H, W; the first axis turns towards the second
_ROUNDING = 1e-6


class ImpossibleError(MedpairError):
    """A change that would break the anatomy or leave the grid."""


@dataclass(frozen=True)
class Patch:
    """A structure lifted out of a map.

    `label` holds its ids, 0 elsewhere; `first` is its corner's voxel, which may be outside the map.
    """

    label: LabelMap
    first: tuple[int, int, int]

    def moved(self, voxels: Sequence[int]) -> Patch:
        """Return the same structure elsewhere."""
        d, h, w = (f + v for f, v in zip(self.first, voxels, strict=True))
        return Patch(self.label, (d, h, w))


def rotation(degrees: Sequence[float]) -> Floats:
    """Return the push (3, 3) in mm of turns about W, then H, then D.

    Args:
        degrees: about D (H turns towards W), about H (D towards W), about W (D towards H).
    """
    matrix = np.eye(3)
    for (i, j), angle in zip(_TURNS, degrees, strict=True):
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(math.radians(angle))
        turn[j, i] = math.sin(math.radians(angle))
        turn[i, j] = -turn[j, i]
        matrix = matrix @ turn
    return matrix


def pull_of(push_mm: Floats, spacing: Sequence[float]) -> Floats:
    """Return the pull (3, 3) in voxels of a push in mm; voxels may be anisotropic."""
    width = np.asarray(spacing, dtype=np.float64)
    return np.linalg.inv(push_mm) * width[None, :] / width[:, None]


def affine_of(pull: Floats, about: Floats) -> list[list[float]]:
    """Return a pull about a voxel as a homogeneous matrix (4, 4) for a record."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = pull, about - pull @ about
    return [[float(value) for value in row] for row in matrix]


def warp_map(label: LabelMap, pull: Floats, about: Floats, num_classes: int) -> LabelMap:
    """Return a whole map pulled about a voxel by cubic class scores; edges are continued.

    Args:
        label: (D, H, W) uint8, at least 2 voxels a side.
        pull: (3, 3) in voxels.
        about: the voxel that stays, (3,).
        num_classes: background included.
    """
    centre = (np.array(label.shape) - 1) / 2
    shift = (pull - np.eye(3)) @ (centre - about)  # warp_grid turns about the centre
    still = torch.zeros(3, 2, 2, 2)
    warp = Warp(torch.tensor(pull).float(), torch.tensor(shift).float(), still)
    d, h, w = label.shape
    grid = warp_grid(warp, (d, h, w), range(d))
    whole = torch.from_numpy(np.ascontiguousarray(label))
    return np.asarray(warp_labels(whole, grid, num_classes).numpy())


def select(label: LabelMap, ids: Collection[int], at: Sequence[int] | None = None) -> Mask:
    """Return where some labels lie, or only their connected piece at a voxel.

    Raises:
        MedpairError: where the voxel is outside the map or shows another label.
    """
    where = np.isin(label, list(ids))
    if at is None:
        return where
    if not all(0 <= v < n for v, n in zip(at, label.shape, strict=True)) or not where[tuple(at)]:
        raise MedpairError(
            f"at: voxel {list(at)} does not show the label in a map of {list(label.shape)} "
            "voxels; give a voxel (D, H, W) of the piece"
        )
    pieces = connected(where, connectivity=3)
    return np.asarray(pieces == pieces[tuple(at)])


def centroid(where: Mask) -> Floats:
    """Return the mean voxel (3,) of a mask that is not empty."""
    return np.asarray(np.argwhere(where).mean(axis=0))


def cut(label: LabelMap, where: Mask) -> Patch:
    """Lift the voxels of a mask, which is not empty, out of a map (the map is not changed)."""
    (d, d1), (h, h1), (w, w1) = bounding_box(where)
    box = (slice(d, d1), slice(h, h1), slice(w, w1))
    return Patch(np.where(where[box], label[box], 0).astype(np.uint8), (d, h, w))


def turned(patch: Patch, pull: Floats, about: Floats, num_classes: int) -> Patch:
    """Return a structure pulled about a voxel of the map, with all the room that it needs."""
    first, size = np.array(patch.first), np.array(patch.label.shape)
    ends = np.array([first, first + size - 1])
    corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), -1).reshape(-1, 3)
    pushed = about + (corners - about) @ np.linalg.inv(pull).T
    low = np.minimum(np.floor(pushed.min(axis=0)).astype(int), first) - 1
    high = np.maximum(np.ceil(pushed.max(axis=0)).astype(int), ends[1]) + 1
    room = np.zeros(high - low + 1, dtype=np.uint8)
    inner = first - low
    room[tuple(slice(i, i + n) for i, n in zip(inner, size, strict=True))] = patch.label
    d, h, w = (int(v) for v in low)
    return Patch(warp_map(room, pull, about - low, num_classes), (d, h, w))


def fill_with_nearest(
    label: LabelMap, where: Mask, ids: Collection[int], spacing: Sequence[float]
) -> LabelMap:
    """Return a map whose masked voxels have the nearest label, neither background nor among ids.

    Args:
        label: (D, H, W) uint8.
        where: the voxels to fill.
        ids: labels that do not fill.
        spacing: mm (D, H, W).

    Returns:
        A new map; without any label to fill with the masked voxels are background.
    """
    ground = label.copy()
    known = ~np.isin(label, [0, *ids])
    ground[where] = _nearest(label, known, spacing)[where] if known.any() else 0
    return ground


def _nearest(label: LabelMap, known: Mask, spacing: Sequence[float]) -> LabelMap:
    """Return at each voxel the label of the nearest known one."""
    places = distance_transform_edt(
        ~known, sampling=spacing, return_distances=False, return_indices=True
    )
    return np.asarray(label[tuple(places)])


def lay(
    ground: LabelMap, patch: Patch, free: Mask, most_lost: float, schema: LabelSchema
) -> tuple[LabelMap, Mask, int]:
    """Lay a structure down on a map.

    Args:
        ground: (D, H, W) uint8, the map without the structure.
        patch: the structure.
        free: the voxels that it may take.
        most_lost: share of its voxels that may be cut off because they would lie elsewhere.
        schema: names the labels in errors.

    Returns:
        The map with the structure, where it lies there, and the number of voxels cut off.

    Raises:
        ImpossibleError: where more is lost, or one of its labels would vanish.
    """
    inner = np.argwhere(patch.label)
    places = inner + np.array(patch.first)
    inside = ((places >= 0) & (places < np.array(ground.shape))).all(axis=1)
    fits = inside.copy()
    fits[inside] = free[tuple(places[inside].T)]
    lost = int((~fits).sum())
    if lost > most_lost * len(fits):
        ids = np.unique(ground[tuple(places[inside & ~fits].T)])
        on = [schema.names[i] for i in ids] + ["the outside of the grid"] * bool((~inside).any())
        raise ImpossibleError(
            f"{lost} of {len(fits)} voxels would lie on {', '.join(on)}, "
            f"want at most {most_lost:.0%}"
        )
    ids = patch.label[tuple(inner.T)]
    check_remains(ids, ids[fits], schema)
    laid, at = ground.copy(), np.zeros(ground.shape, dtype=np.bool_)
    laid[tuple(places[fits].T)] = ids[fits]
    at[tuple(places[fits].T)] = True
    return laid, at, lost


def check_remains(before: LabelMap, after: LabelMap, schema: LabelSchema) -> None:
    """Raise ImpossibleError where a label of the voxels before is not among those after."""
    vanished = [schema.names[i] for i in np.setdiff1d(before, after)]
    if vanished:
        raise ImpossibleError(f"no voxel of {', '.join(vanished)} would remain")


def _around(where: Mask, mm: float, spacing: Sequence[float]) -> tuple[slice, ...]:
    """Return the box of a mask, wider by a length and a voxel where the map allows."""
    wider = [math.ceil(mm / s) + 1 for s in spacing]
    return tuple(
        slice(max(first - more, 0), end + more)
        for (first, end), more in zip(bounding_box(where), wider, strict=True)
    )


def eroded(where: Mask, mm: float, spacing: Sequence[float]) -> Mask:
    """Return the voxels whose distance to the nearest voxel outside is more than a length.

    The structure is taken to go on beyond the grid's faces.
    """
    box = _around(where, 0, spacing)
    kept = where.copy()
    if not where[box].all():
        depth = distance_transform_edt(where[box], sampling=spacing)
        kept[box] = depth > mm + _ROUNDING
    return kept


def dilated(label: LabelMap, where: Mask, free: Mask, mm: float, spacing: Spacing) -> LabelMap:
    """Return a map whose structure has grown into free voxels at most a length away.

    New voxels get the label of the structure's nearest voxel.
    """
    box = _around(where, mm, spacing)
    distance, places = distance_transform_edt(~where[box], sampling=spacing, return_indices=True)
    new = ~where[box] & free[box] & (distance <= mm + _ROUNDING)
    grown = label.copy()
    grown[box] = np.where(new, label[box][tuple(places)], label[box])
    return grown


def sphere(
    shape: Sequence[int], centre: Sequence[float], radius: float, spacing: Sequence[float]
) -> Mask:
    """Return the voxels whose centres lie at most a radius (mm) from a place (voxels)."""
    axes = [((np.arange(n) - c) * s) ** 2 for n, c, s in zip(shape, centre, spacing, strict=True)]
    square = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
    return np.asarray(square <= (radius + _ROUNDING) ** 2)


def surroundings(names: Collection[str], schema: LabelSchema) -> tuple[str, ...]:
    """Return the labels that surround a structure: those that its labels lie inside of.

    Falls back to the schema's container, then to the background.
    """
    found = {
        item.inside: None
        for item in schema.labels
        if item.name in names and item.inside and item.inside not in names
    }
    if not found:
        found = {schema.container.name if schema.container else "background": None}
    return tuple(name for name in found if name)


def support_ids(names: Collection[str], schema: LabelSchema) -> list[int]:
    """Return the ids of some labels and of all labels that lie inside them, at any depth."""
    outer = {item.name: item.inside for item in schema.labels}

    def reaches(name: str | None, steps: int) -> bool:
        return bool(name and steps) and (name in names or reaches(outer[str(name)], steps - 1))

    return [item.id for item in schema.labels if reaches(item.name, len(outer))]
