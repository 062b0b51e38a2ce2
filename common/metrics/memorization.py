"""Novelty of masks: how much a generated mask resembles the training mask that is nearest to it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.data.labels import LabelSchema
from common.errors import MedpairError
from common.metrics.floor import check_persons
from common.metrics.realism import scored_labels
from common.metrics.values import mean_of, number

LabelMap = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_CHUNK = 1 << 18
"""Voxels per matrix product: bounds the memory and keeps every float32 count exact (below 2^24)."""

_EMPTY = "neither the mask nor any training mask holds a label"


def pairwise_dice(a: Sequence[LabelMap], b: Sequence[LabelMap], ids: Sequence[int]) -> Floats:
    """Return the mean Dice over labels of every map of one set with every map of another.

    A label that is in neither map of a pair is left out of its mean; two maps without any of the
    labels have NaN.

    Args:
        a: N label maps of one shape, uint8.
        b: M label maps of the same shape, uint8.
        ids: the label ids that count.

    Returns:
        (N, M) float64 matrix, 0..1.

    Raises:
        MedpairError: if the shapes differ or a set is empty.
    """
    shapes = sorted({m.shape for m in (*a, *b)})
    if not a or not b or len(shapes) != 1:
        raise MedpairError(
            f"masks: {len(a)} and {len(b)} maps of shapes {shapes}, at least one each and one "
            "shape wanted; prepare both sets with the same spacing and size"
        )
    overlap, total = _counts(np.stack(a), np.stack(b), ids)
    dice = np.divide(2 * overlap, total, out=np.full(total.shape, np.nan), where=total > 0)
    known = np.isfinite(dice).sum(0)
    mean = np.full(known.shape, np.nan)
    np.divide(np.nansum(dice, 0), known, out=mean, where=known > 0)
    return mean


def _counts(a: LabelMap, b: LabelMap, ids: Sequence[int]) -> tuple[Floats, Floats]:
    """Return the voxels two maps share and hold together, per label: two (labels, N, M) arrays."""
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    overlap = np.zeros((len(ids), len(a), len(b)))
    total = np.zeros_like(overlap)
    for start in range(0, flat_a.shape[1], _CHUNK):
        part_a, part_b = flat_a[:, start : start + _CHUNK], flat_b[:, start : start + _CHUNK]
        for row, label_id in enumerate(ids):
            hot_a = (part_a == label_id).astype(np.float32)
            hot_b = (part_b == label_id).astype(np.float32)
            overlap[row] += hot_a @ hot_b.T
            total[row] += hot_a.sum(1)[:, None] + hot_b.sum(1)[None, :]
    return overlap, total


def nearest_training(
    generated: Sequence[LabelMap],
    training: Sequence[LabelMap],
    schema: LabelSchema,
    *,
    mirror: bool = False,
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Find the training mask that each generated mask resembles most.

    Args:
        generated: N (D, H, W) uint8 label maps.
        training: M label maps of the same shape.
        schema: their schema; the container does not count.
        mirror: also compare with every training mask reflected left to right (the last axis), which
            finds copies that augmentation has mirrored.

    Returns:
        The highest mean-foreground Dice (N,), 0..1, and the index of that training mask (N,); NaN
        where neither the mask nor any training mask holds a label that counts.

    Raises:
        MedpairError: if the shapes differ or a set is empty.
    """
    ids = [item.id for item in scored_labels(schema)]
    dice = pairwise_dice(generated, training, ids)
    if mirror:
        flipped = [schema.flip_lut[m[..., ::-1]] for m in training]
        dice = np.fmax(dice, pairwise_dice(generated, flipped, ids))
    nearest: Floats = np.fmax.reduce(dice, axis=1)
    return nearest, np.where(np.isnan(dice), -1.0, dice).argmax(1)


def different_person_dice(
    real: Sequence[LabelMap],
    persons: Sequence[str],
    schema: LabelSchema,
    *,
    mirror: bool = False,
) -> Floats:
    """Return, for each real mask, its highest mean-foreground Dice with a mask of another person.

    The largest of them is the reference for novelty: so alike are two different people.

    Args:
        real: M (D, H, W) uint8 label maps of one shape.
        persons: the person of each.
        schema: their schema; the container does not count.
        mirror: also compare with reflected masks, as in `nearest_training`.

    Returns:
        (M,) float64, 0..1; NaN where there is nobody else.

    Raises:
        MedpairError: if the persons do not match the masks, the shapes differ, or there is no mask.
    """
    check_persons(persons, len(real), "masks")
    ids = [item.id for item in scored_labels(schema)]
    dice = pairwise_dice(real, real, ids)
    if mirror:
        flipped = [schema.flip_lut[m[..., ::-1]] for m in real]
        dice = np.fmax(dice, pairwise_dice(real, flipped, ids))
    names = np.array(persons)
    dice[names[:, None] == names[None, :]] = np.nan
    nearest: Floats = np.fmax.reduce(dice, axis=1)
    return nearest


def novelty(
    generated: Sequence[LabelMap],
    real: Sequence[LabelMap],
    persons: Sequence[str],
    schema: LabelSchema,
    *,
    trained_on: Sequence[bool] | None = None,
    mirror: bool = False,
) -> dict[str, object]:
    """Compare nearest-training Dice with the likeness of different real people.

    Args:
        generated: (D, H, W) uint8 label maps.
        real: real label maps of the same shape; all of them, held back or not, make the reference.
        persons: the person of each real map.
        schema: their schema; the container does not count.
        trained_on: whether the generator has seen each real map; all of them by default.
        mirror: also compare with reflected masks, in both numbers.

    Returns:
        ``nearest``: per generated mask its highest Dice with a training mask and the index of that
        one in `real`; ``max`` and ``mean`` of these; ``reference``: the maximum over real masks of
        different persons; ``share_above`` the reference; ``n_training``.

    Raises:
        MedpairError: if the shapes differ, a set is empty, or numbers do not match.
    """
    rows = _training_rows(trained_on, len(real))
    others = different_person_dice(real, persons, schema, mirror=mirror)
    dice, index = nearest_training(generated, [real[i] for i in rows], schema, mirror=mirror)
    reference = number(np.fmax.reduce(others), "needs real masks of at least 2 persons")
    return {
        "nearest": [
            {"dice": number(d, _EMPTY), "training": rows[i]}
            for d, i in zip(dice, index, strict=True)
        ],
        "max": number(np.fmax.reduce(dice), _EMPTY),
        "mean": mean_of((number(d, _EMPTY) for d in dice), _EMPTY),
        "reference": reference,
        "share_above": reference
        if isinstance(reference, str)
        else float((dice > reference).mean()),
        "n_training": len(rows),
        "mirror": mirror,
    }


def _training_rows(trained_on: Sequence[bool] | None, count: int) -> list[int]:
    """Return the indices of the real masks that the generator has seen."""
    seen = [True] * count if trained_on is None else list(trained_on)
    if len(seen) != count or not any(seen):
        raise MedpairError(
            f"trained_on: {sum(seen)} of {len(seen)} true for {count} real masks, one entry per "
            "mask and at least one true wanted; say which masks the generator has seen"
        )
    return [i for i, known in enumerate(seen) if known]
