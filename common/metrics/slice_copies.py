"""Copies of slices: how much generated slices resemble the training slice that is nearest to them.

A generator that takes a real slice of one person and a real mask of another can hand both on. How
alike slices of different persons are is taken from held-back scans, whose nearest training slices
give the threshold. Two likenesses, both normalised cross-correlations: ``plain`` of intensities,
which are alike in all brains, and ``detail`` of what remains after the smooth part is taken away,
which tells a blurred or brightened copy from another person (of real brains at 4 mm: copies >= 0.95
at the median, held-back scans <= 0.80).

N slices, F pixels of a slice, M training slices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage

from common.data.bodies import shown_slices
from common.errors import MedpairError
from common.metrics.values import Value, not_computed

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

SIDE = 64
"""Longest side at which slices are compared; larger ones are averaged down."""
SMOOTH = 0.05
"""Standard deviation of the Gaussian that takes detail from the smooth part, in shorter sides."""
SHARE = 0.25
"""Slices with less than this share of the fullest slice's body are left out."""
PERCENTILE = 99.0
_CHUNK = 1024
_NO_HELD_OUT = not_computed("no scans were held back: nobody says how alike two persons are")
_NO_SLICE = not_computed("there is no such slice")
KINDS = ("plain", "detail")


@dataclass(frozen=True)
class AuditScan:
    """An image and whose anatomy it shows.

    Attributes:
        id: its name.
        image: (D, H, W) image, normalised intensities (0..1, clipped).
        label: (D, H, W) uint8 label map; slices with little body are left out.
        person: whose mask it is.
        informed_by: the person of the informed slice; None for scans and generated slices.
        start: number of the slice that the informed slice stands for; None for scans.
    """

    id: str
    image: Image
    label: LabelMap
    person: str
    informed_by: str | None = None
    start: int | None = None


@dataclass(frozen=True)
class Slices:
    """Slices as unit vectors: ``vectors`` (N, F), and per slice its scan and number in it."""

    vectors: Floats
    scans: Indices
    numbers: Indices


def slice_vectors(scans: Sequence[AuditScan], kind: str, *, mirrored: bool = False) -> Slices:
    """Return the slices of scans as vectors whose products are their correlations.

    Args:
        scans: at least one; all of one in-plane size.
        kind: "plain" or "detail".
        mirrored: reflect the last axis, left to right.
    """
    parts, owners, numbers = [], [], []
    for index, scan in enumerate(scans):
        keep = shown_slices(scan.label, SHARE)
        image = scan.image[..., ::-1] if mirrored else scan.image
        parts.append(_vectors(np.clip(image[keep], 0, 1), kind))
        owners.append(np.full(len(keep), index))
        numbers.append(keep)
    widths = {part.shape[1] for part in parts if len(part)}
    if len(widths) != 1:
        raise MedpairError(
            f"scans: {len(scans)} of in-plane pixels {sorted(widths)}, at least 1 and one size "
            "wanted; prepare all with one size"
        )
    parts = [part for part in parts if len(part)]
    return Slices(np.concatenate(parts), np.concatenate(owners), np.concatenate(numbers))


def nearest_slices(query: Slices, training: Slices) -> tuple[Floats, Indices]:
    """Return the highest correlation of each slice with a training slice (N,), and which (N,)."""
    best = np.full(len(query.vectors), -np.inf, np.float32)
    which = np.zeros(len(query.vectors), np.int64)
    for first in range(0, len(training.vectors), _CHUNK):
        likeness = query.vectors @ training.vectors[first : first + _CHUNK].T
        own = likeness.argmax(1)
        value = likeness[np.arange(len(own)), own]
        which = np.where(value > best, own + first, which)
        best = np.maximum(value, best)
    return best, which


def slice_likeness(a_NHW: Image, b_NHW: Image, kind: str) -> Floats:
    """Return the correlation (N,) of slices pair by pair.

    Args:
        a_NHW: normalised intensities (0..1, clipped).
        b_NHW: as many slices of one size.
        kind: "plain" or "detail".
    """
    pair = (_vectors(np.clip(slices, 0, 1), kind) for slices in (a_NHW, b_NHW))
    a_NF, b_NF = pair
    return np.asarray((a_NF * b_NF).sum(axis=1), np.float32)


def copy_audit(
    generated: Sequence[AuditScan],
    training: Sequence[AuditScan],
    held_out: Sequence[AuditScan],
    *,
    near: int = 2,
    mirror: bool = True,
) -> dict[str, object]:
    """Measure how often generated slices are nearer to a training slice than people are.

    Args:
        generated: what was made; `person` and `informed_by` say whose mask and slice it used.
        training: the scans that the generator has learned from.
        held_out: scans of other persons; without any there is no threshold.
        near: slices at most so far from the informed slice's place count as near it.
        mirror: also compare with mirrored training slices, which masks may be made from.

    Returns:
        ``n``, ``n_training``, ``n_held_out`` (volumes), ``percentile``, ``near``, ``mirror``; per
        kind "plain" and "detail": ``threshold`` (the percentile of held-out slices), ``held_out``
        (their median), and for ``all`` slices, those ``near_informed`` and ``elsewhere``:
        ``slices``, ``median``, ``share_above`` the threshold (0.01 for a fair sample) and
        ``nearest``: the shares whose nearest slice is of the ``mask_person``, the
        ``informed_person`` or ``another``; ``volumes``: per id ``max``, ``share_above`` and the
        ``nearest`` scan.

    Raises:
        MedpairError: if a set of generated or training scans is empty, or sizes differ.
    """
    found: dict[str, object] = {
        "n": len(generated),
        "n_training": len(training),
        "n_held_out": len(held_out),
        "percentile": PERCENTILE,
        "near": near,
        "mirror": mirror,
    }
    for kind in KINDS:
        bank = slice_vectors(training, kind)
        if mirror:
            bank = _joined(bank, slice_vectors(training, kind, mirrored=True))
        real = nearest_slices(slice_vectors(held_out, kind), bank)[0] if held_out else None
        found[kind] = _audit(generated, training, bank, real, kind, near)
    return found


def _audit(
    generated: Sequence[AuditScan],
    training: Sequence[AuditScan],
    bank: Slices,
    real: Floats | None,
    kind: str,
    near: int,
) -> dict[str, object]:
    slices = slice_vectors(generated, kind)
    value, which = nearest_slices(slices, bank)
    owner = bank.scans[which]
    relation = np.array([_relation(generated[s], training[o]) for s, o in _zip(slices, owner)])
    starts = np.array([np.nan if g.start is None else g.start for g in generated], float)
    close = np.abs(slices.numbers - starts[slices.scans]) <= near
    threshold = None if real is None else float(np.percentile(real, PERCENTILE))
    groups = {"all": np.ones_like(close), "near_informed": close, "elsewhere": ~close}
    volumes = {}
    for index, scan in enumerate(generated):
        rows = np.flatnonzero(slices.scans == index)
        most = rows[value[rows].argmax()]
        volumes[scan.id] = {
            "max": float(value[most]),
            "share_above": _share_above(value[rows], threshold),
            "nearest": training[owner[most]].id,
        }
    return {
        "threshold": _NO_HELD_OUT if threshold is None else threshold,
        "held_out": _NO_HELD_OUT if real is None else {"median": float(np.median(real))},
        **{name: _group(value[g], relation[g], threshold) for name, g in groups.items()},
        "volumes": volumes,
    }


def _group(value: Floats, relation: npt.NDArray[np.str_], threshold: float | None) -> object:
    if not len(value):
        return _NO_SLICE
    names = ("mask_person", "informed_person", "another")
    return {
        "slices": len(value),
        "median": float(np.median(value)),
        "share_above": _share_above(value, threshold),
        "nearest": {name: float((relation == name).mean()) for name in names},
    }


def _share_above(value: Floats, threshold: float | None) -> Value:
    return _NO_HELD_OUT if threshold is None else float((value > threshold).mean())


def _relation(made: AuditScan, nearest: AuditScan) -> str:
    if nearest.person == made.informed_by:
        return "informed_person"
    return "mask_person" if nearest.person == made.person else "another"


def _zip(slices: Slices, owner: Indices) -> list[tuple[int, int]]:
    return list(zip(slices.scans.tolist(), owner.tolist(), strict=True))


def _joined(a: Slices, b: Slices) -> Slices:
    return Slices(
        np.concatenate([a.vectors, b.vectors]),
        np.concatenate([a.scans, b.scans]),
        np.concatenate([a.numbers, b.numbers]),
    )


def _vectors(images_NHW: Image, kind: str) -> Floats:
    height, width = images_NHW.shape[1:]
    shrink = max(1.0, max(height, width) / SIDE)
    slices = torch.from_numpy(images_NHW.astype(np.float32))
    if shrink > 1 and len(slices):
        size = (round(height / shrink), round(width / shrink))
        slices = F.adaptive_avg_pool2d(slices[:, None], size)[:, 0]
    values = slices.numpy()
    if kind == "detail":
        sigma = SMOOTH * min(values.shape[1:])
        values = values - ndimage.gaussian_filter(values, (0, sigma, sigma))
    flat = values.reshape(len(values), values.shape[1] * values.shape[2])
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, 1e-6), np.float32)
