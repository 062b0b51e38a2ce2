"""How alike the volumes of an audit are, by each measure.

Q, B volumes of two sets, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.data.labels import LabelSchema
from common.metrics.aligned import KINDS, aligned_likeness, comparable
from common.metrics.copies import Likeness
from common.metrics.memorization import pairwise_dice
from common.metrics.realism import scored_labels
from common.metrics.rigid import half
from common.progress import Progress
from segeval.audited import Audited, VolumeSet
from segeval.embedding import Contrast, embedding_likeness, train_embedding

LabelMap = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Compare = Callable[[str, str, Mask], Floats]
"""Likeness (Q, B) of two sets by name, given the pairs that do not count."""

MADE, TRAINING, HELD_OUT = "made", "training", "held_out"
BLOCKS = (
    (MADE, TRAINING),
    (MADE, HELD_OUT),
    (HELD_OUT, TRAINING),
    (TRAINING, TRAINING),
    (HELD_OUT, HELD_OUT),
)
"""Pairs of sets that are compared, in the order of `Likeness`."""


class Tick(Protocol):
    """Called when a piece of work is finished."""

    def __call__(self) -> None:
        """Say so."""


def aligned_measures(
    sets: Audited, tick: Tick, *, rows: int = 3, mirror: bool = True
) -> dict[str, Likeness]:
    """Correlate images after rigid alignment, as intensities ("plain") and without the smooth part.

    Args:
        sets: what is compared.
        tick: called for each of `BLOCKS`.
        rows: pairs per volume that are aligned, see `aligned_likeness`.
        mirror: also compare with reflected scans.

    Returns:
        "plain" and "detail".
    """
    volumes = _volumes(sets)
    found: dict[str, list[Floats]] = {kind: [] for kind in KINDS}
    for query, bank in BLOCKS:
        block = aligned_likeness(
            volumes[query],
            volumes[bank],
            sets.spacing,
            skip=_same(sets, query, bank),
            rows=rows,
            columns=rows - 1 if query == MADE else 0,
            mirror=mirror,
        )
        for kind in KINDS:
            found[kind].append(block[kind])
        tick()
    return {kind: Likeness(*blocks) for kind, blocks in found.items()}


def embedding_measure(
    sets: Audited,
    how: Contrast,
    cache: Path | None,
    progress: Progress,
    *,
    mirror: bool = True,
) -> Likeness:
    """Compare images by the cosine of a contrastive embedding, trained on the training scans.

    Args:
        sets: what is compared.
        how: the embedding's training.
        cache: folder that keeps it.
        progress: called with ("embedding", updates done, all).
        mirror: also compare with reflected scans.

    Raises:
        MedpairError: for too few training scans.
    """
    volumes = {name: half(images) for name, images in _volumes(sets).items()}
    network = train_embedding(volumes[TRAINING], how, cache, progress)

    def compare(query: str, bank: str, skip: Mask) -> Floats:
        likeness = embedding_likeness(network, volumes[query], volumes[bank], mirror=mirror)
        return np.where(skip, np.nan, likeness)

    return _all_blocks(sets, compare)


def mask_measure(sets: Audited, *, mirror: bool = True) -> Likeness:
    """Compare masks by their mean Dice over labels, where they stand.

    Args:
        sets: what is compared.
        mirror: also compare with reflected masks.
    """
    labels = {name: group.labels for name, group in _groups(sets).items()}

    def compare(query: str, bank: str, skip: Mask) -> Floats:
        dice = _dice(labels[query], labels[bank], sets.schema, mirror)
        return np.where(skip, np.nan, dice)

    return _all_blocks(sets, compare)


def _dice(
    a: Sequence[LabelMap], b: Sequence[LabelMap], schema: LabelSchema, mirror: bool
) -> Floats:
    if not a or not b:
        return np.zeros((len(a), len(b)))
    ids = [item.id for item in scored_labels(schema)]
    dice = pairwise_dice(a, b, ids)
    if not mirror:
        return dice
    flipped = [schema.flip_lut[label[..., ::-1]] for label in b]
    return np.asarray(np.fmax(dice, pairwise_dice(a, flipped, ids)))


def _all_blocks(sets: Audited, compare: Compare) -> Likeness:
    return Likeness(*(compare(query, bank, _same(sets, query, bank)) for query, bank in BLOCKS))


def _groups(sets: Audited) -> dict[str, VolumeSet]:
    return {MADE: sets.made, TRAINING: sets.training, HELD_OUT: sets.held_out}


def _same(sets: Audited, query: str, bank: str) -> Mask:
    """Return the pairs of scans that show one person; generated volumes are nobody's."""
    groups = _groups(sets)
    shape = len(groups[query].ids), len(groups[bank].ids)
    if query == MADE:
        return np.zeros(shape, np.bool_)
    names = [np.array(groups[name].persons, dtype=str) for name in (query, bank)]
    return np.asarray(names[0][:, None] == names[1][None]).reshape(shape)


def _volumes(sets: Audited) -> dict[str, Tensor]:
    """Return the volumes (N, D, H, W) of each set, none for an empty one."""
    found = {name: group.images for name, group in _groups(sets).items()}
    size = comparable(found[TRAINING]).shape[1:]
    return {name: comparable(i) if i else torch.zeros(0, *size) for name, i in found.items()}
