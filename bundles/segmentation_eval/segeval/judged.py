"""The two pair sets that a judge reads: one generated, one of real scans."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.data.datasets import Pair, PairSet, Spacing
from common.data.labels import LabelSchema
from common.data.readable import read_pairs
from common.errors import MedpairError
from common.io.manifest import sha256
from common.metrics.floor import Split, fixed_splits, person_splits
from common.metrics.image_report import ImageSet
from segeval.parts import check_alike

LabelMap = npt.NDArray[np.uint8]
Joints = tuple[int, ...] | None


@dataclass(frozen=True)
class Judged:
    """What a judge has read.

    Attributes:
        schema: of both sets.
        spacing: voxel size (D, H, W) of both sets in mm.
        synthetic: the generated pairs; None where none can be read. A pair whose mask is that of a
            real scan shows that scan's person, any other whom its manifest names.
        training: real scans of split "training", those of the generator; None if there are none.
        kept_back: real scans of split "validation".
        joints: per generated pair the first slices of its later windows, None where unknown.
        problems: a line for each pair that is left out.
        sets: what a report says of the two pair sets.
    """

    schema: LabelSchema
    spacing: Spacing
    synthetic: ImageSet | None
    training: ImageSet | None
    kept_back: ImageSet | None
    joints: tuple[Joints, ...]
    problems: tuple[str, ...]
    sets: Mapping[str, Mapping[str, Any]]

    @cached_property
    def real(self) -> ImageSet | None:
        """All real scans, those of the training split first."""
        return joined([s for s in (self.training, self.kept_back) if s is not None])

    @property
    def trained_on(self) -> list[bool] | None:
        """For each of `real` whether the generator has seen it; None where no split says so."""
        if self.training is None or self.real is None:
            return None
        seen = len(self.training.ids)
        return [row < seen for row in range(len(self.real.ids))]

    @cached_property
    def compared(self) -> tuple[ImageSet, ...]:
        """The real scans that generated ones are compared with, where there are any.

        Kept-back and training scans: generated images are compared with the training scans, and the
        kept-back ones give the floor. All real scans as one set, to be halved at random, where a
        split is empty or generated images show persons of the training scans, which would meet
        images of their own anatomy.
        """
        if self.synthetic is None or self.real is None:
            return ()
        if self.training is None or self.kept_back is None:
            return (self.real,)
        if set(self.synthetic.persons) & set(self.training.persons):
            return (self.real,)
        return (self.kept_back, self.training)

    def splits(self, repeats: int, seed: int) -> list[Split]:
        """Return rows of generated, real and other real pairs, in a list of all of them."""
        assert self.synthetic is not None
        made, first, *others = (len(s.ids) for s in (self.synthetic, *self.compared))
        if others:
            rows = fixed_splits(made, first, others[0], repeats, seed)
            return [(g, made + a, made + first + b) for g, a, b in rows]
        persons = (self.compared[0].persons, self.synthetic.persons)
        rows = person_splits(made, persons[0], repeats, seed, persons[1])
        return [(g, made + a, made + b) for g, a, b in rows]

    def scans(self) -> list[tuple[int, int]]:
        """Return the rows of generated pairs and the real scans of equal id and mask."""
        if self.synthetic is None or self.real is None:
            return []
        known = {name: row for row, name in enumerate(self.real.ids)}
        rows = [(row, known[name]) for row, name in enumerate(self.synthetic.ids) if name in known]
        labels = self.synthetic.labels, self.real.labels
        return [(i, j) for i, j in rows if np.array_equal(labels[0][i], labels[1][j])]


def joined(sets: Sequence[ImageSet]) -> ImageSet | None:
    """Return several sets as one, None for no set."""
    if not sets:
        return None
    return ImageSet(
        [name for s in sets for name in s.ids],
        [image for s in sets for image in s.images],
        [label for s in sets for label in s.labels],
        [person for s in sets for person in s.persons],
    )


def read_judged(
    real_dir: str | Path, synthetic_dir: str | Path, joints: Sequence[int] | None = None
) -> Judged:
    """Read both pair sets; pairs that are damaged are named and left out.

    Args:
        real_dir: pair set of real scans; split "training" are those the generator was trained on.
        synthetic_dir: generated pair set.
        joints: first slices of later windows, for pairs whose manifest names no ``joints``.

    Raises:
        MedpairError: where there is no pair set or an empty one, or for sets of another schema or
            spacing, a spacing that differs from pair to pair, or a person in both real splits.
    """
    real, synthetic = PairSet.open(real_dir), PairSet.open(synthetic_dir)
    check_alike(str(real_dir), real, str(synthetic_dir), synthetic)
    if real.spacing is None:
        raise MedpairError(
            f"{real_dir}: its spacing differs from pair to pair, wanted one for distances in mm; "
            "prepare it with --spacing"
        )
    for pairs in (real, synthetic):
        if not pairs.ids():
            raise MedpairError(f"{pairs.dir}: no pair, wanted at least one; prepare or generate it")
    problems: list[str] = []
    training = _read(real, "real", "training", problems)
    kept_back = _read(real, "real", "validation", problems)
    _refuse_shared(real_dir, training, kept_back)
    scans = joined([_image_set(real, pairs) for pairs in (training, kept_back) if pairs])
    made = _read(synthetic, "synthetic", None, problems)
    return Judged(
        real.schema,
        real.spacing,
        _image_set(synthetic, made, scans) if made else None,
        _image_set(real, training) if training else None,
        _image_set(real, kept_back) if kept_back else None,
        tuple(_joints(synthetic, pair.id, joints) for pair in made),
        tuple(problems),
        {
            "real": _settings(real, len(training) + len(kept_back)),
            "synthetic": _settings(synthetic, len(made)),
        },
    )


def _read(pairs: PairSet, name: str, split: str | None, problems: list[str]) -> list[Pair]:
    good, bad = read_pairs(pairs, pairs.ids(split))
    problems += [f"{name}: pair {key} is left out: {line}" for key, line in bad.items()]
    return [Pair(p.id, np.clip(p.image, 0, 1), p.label, p.affine) for p in good]


def _image_set(pairs: PairSet, read: Sequence[Pair], scans: ImageSet | None = None) -> ImageSet:
    persons = [pairs.person(pair.id) for pair in read]
    if scans is not None:
        owners = {
            mask_key(label): person
            for label, person in zip(scans.labels, scans.persons, strict=True)
            if label.any()
        }
        persons = [
            owners.get(mask_key(pair.label), person)
            for pair, person in zip(read, persons, strict=True)
        ]
    return ImageSet(
        [pair.id for pair in read],
        [pair.image for pair in read],
        [pair.label for pair in read],
        persons,
    )


def mask_key(label: LabelMap) -> tuple[tuple[int, ...], str]:
    """Return what equal masks have in common and different ones do not."""
    content = np.ascontiguousarray(label).tobytes()
    return label.shape, hashlib.sha256(content).hexdigest()


def _refuse_shared(folder: str | Path, training: list[Pair], kept_back: list[Pair]) -> None:
    pairs = PairSet.open(folder)
    both = {pairs.person(p.id) for p in training} & {pairs.person(p.id) for p in kept_back}
    if both:
        raise MedpairError(
            f"{folder}: {len(both)} persons are in training and in validation ({min(both)}), "
            "wanted other persons; split the scans by person"
        )


def _joints(pairs: PairSet, identity: str, otherwise: Sequence[int] | None) -> Joints:
    known = pairs.record(identity).get("joints", otherwise)
    return None if known is None else tuple(int(k) for k in known)


def _settings(pairs: PairSet, read: int) -> dict[str, Any]:
    return {
        "folder": pairs.dir.absolute().name,
        "manifest_sha256": sha256(pairs.manifest.path),
        "pairs": read,
    }
