"""What an audit reads: generated pairs, the scans of the training, and scans that were kept back.

D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.data.datasets import Pair, PairSet, Spacing, load_arrays
from common.data.labels import LabelSchema
from common.data.readable import read_pairs
from common.errors import MedpairError
from common.io.manifest import sha256
from common.metrics.copies import Scans
from segeval.parts import check_alike

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class VolumeSet:
    """Volumes with their masks.

    Attributes:
        ids: names of the pairs.
        images: (D, H, W) normalised intensities, clipped to [0, 1].
        labels: (D, H, W) uint8 label maps.
        persons: whose anatomy each shows.
        records: manifest line of each; empty for phantoms.
    """

    ids: Sequence[str]
    images: Sequence[Image]
    labels: Sequence[LabelMap]
    persons: Sequence[str]
    records: Sequence[Mapping[str, Any]]

    @property
    def scans(self) -> Scans:
        """Ids and persons."""
        return Scans(self.ids, self.persons)


@dataclass(frozen=True)
class Audited:
    """All sets of an audit.

    Attributes:
        made: the generated pairs; a pair whose mask is a training scan's shows that person.
        training: the scans that the generator has seen.
        held_out: scans of other persons; may be empty.
        schema: of all masks.
        spacing: voxel size (D, H, W) of all in mm.
        problems: a line for each pair that is left out.
        sets: what the report says of the sets.
    """

    made: VolumeSet
    training: VolumeSet
    held_out: VolumeSet
    schema: LabelSchema
    spacing: Spacing
    problems: tuple[str, ...]
    sets: Mapping[str, Mapping[str, Any]]


def read_audited(synthetic_dir: str, training_dir: str, held_out_dir: str | None = None) -> Audited:
    """Read the sets of an audit; pairs that are damaged are named and left out.

    Args:
        synthetic_dir: generated pair set.
        training_dir: pair set whose split "training" the generator has seen.
        held_out_dir: pair set of other persons, all of whose pairs count; None takes the split
            "validation" of `training_dir`.

    Raises:
        MedpairError: for a missing or empty set, sets that differ in schema, spacing or size, or a
            person who is in training and kept back.
    """
    problems: list[str] = []
    made = _Source("synthetic", synthetic_dir, None, problems)
    training = _Source("training", training_dir, "training", problems)
    if held_out_dir is None:
        held_out = _Source("held_out", training_dir, "validation", problems)
    else:
        held_out = _Source("held_out", held_out_dir, None, problems)
    for other in (training, held_out):
        check_alike(synthetic_dir, made.origin, other.folder, other.origin)
    for source in (made, training):
        if not source.volumes.ids:
            raise MedpairError(f"{source.folder}: no {source.name} pair can be read, wanted one")
    _check_shapes(made, training, held_out)
    _refuse_shared(training, held_out)
    spacing = training.origin.spacing
    if spacing is None:
        raise MedpairError(
            f"{training_dir}: its spacing differs from pair to pair, wanted one; prepare it with "
            "--spacing"
        )
    return Audited(
        _owned(made.volumes, training.volumes),
        training.volumes,
        held_out.volumes,
        training.origin.schema,
        spacing,
        tuple(problems),
        {s.name: s.settings() for s in (made, training, held_out)},
    )


class _Source:
    """A pair set or phantoms, read."""

    def __init__(self, name: str, folder: str, split: str | None, problems: list[str]) -> None:
        self.name, self.folder, self.split = name, folder, split
        if folder.startswith("phantom:"):
            self.origin: Any = load_arrays(folder, split)
            images = [np.clip(image, 0, 1) for image in self.origin.images]
            ids = list(self.origin.ids)
            self.volumes = VolumeSet(ids, images, self.origin.labels, ids, [{}] * len(ids))
            return
        self.origin = PairSet.open(folder)
        good, bad = read_pairs(self.origin, self.origin.ids(split))
        problems += [f"{name}: pair {key} is left out: {line}" for key, line in bad.items()]
        self.volumes = self._volumes(good)

    def _volumes(self, pairs: Sequence[Pair]) -> VolumeSet:
        return VolumeSet(
            [pair.id for pair in pairs],
            [np.clip(pair.image, 0, 1) for pair in pairs],
            [pair.label for pair in pairs],
            [self.origin.person(pair.id) for pair in pairs],
            [self.origin.record(pair.id) for pair in pairs],
        )

    def settings(self) -> dict[str, Any]:
        """Return what identifies the set."""
        said: dict[str, Any] = {"folder": Path(self.folder).name, "split": self.split}
        if isinstance(self.origin, PairSet) and self.origin.manifest.path.is_file():
            said["manifest_sha256"] = sha256(self.origin.manifest.path)
        return {**said, "pairs": len(self.volumes.ids)}


def _check_shapes(*sources: _Source) -> None:
    shapes = {label.shape: source for source in sources for label in source.volumes.labels}
    if len(shapes) > 1:
        seen = ", ".join(f"{source.folder} {shape}" for shape, source in shapes.items())
        raise MedpairError(
            f"sizes: {seen}; wanted one size (D, H, W); prepare or generate all with that size"
        )


def _refuse_shared(training: _Source, held_out: _Source) -> None:
    both = set(training.volumes.persons) & set(held_out.volumes.persons)
    if both:
        raise MedpairError(
            f"{held_out.folder}: {len(both)} of its persons are in training too ({min(both)}), "
            "wanted other persons; split the scans by person"
        )


def _owned(made: VolumeSet, training: VolumeSet) -> VolumeSet:
    """Return the generated pairs, each whose mask is a training scan's under that person."""
    owners = {
        label.tobytes(): person
        for label, person in zip(training.labels, training.persons, strict=True)
        if label.any()
    }
    persons = [
        owners.get(label.tobytes(), person)
        for label, person in zip(made.labels, made.persons, strict=True)
    ]
    return VolumeSet(made.ids, made.images, made.labels, persons, made.records)
