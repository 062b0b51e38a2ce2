"""The pair sets of a comparison: what they hold, whose scans, which pairs are taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.data.datasets import PairSet, Size
from common.errors import MedpairError
from common.io.manifest import sha256
from segeval.parts import check_alike
from segeval.strategies import Source


@dataclass(frozen=True)
class Item:
    """A pair that can be read.

    Attributes:
        id: its name in its set.
        split: "training" or "validation".
        person: whom its mask shows.
        persons: all of whom it shows something: mask, and the slice that its image was made from.
        mask: what its mask was taken from; equal for the copies of a mask.
        content: hashes of image and mask.
    """

    id: str
    split: str
    person: str
    persons: frozenset[str]
    mask: str
    content: tuple[str, str]


@dataclass(frozen=True)
class Pool:
    """A pair set, without the pairs that are damaged.

    Attributes:
        name: as the user calls it.
        pairset: the set.
        items: its pairs, sorted by id.
        problems: a line for each damaged pair.
    """

    name: str
    pairset: PairSet
    items: tuple[Item, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def dir(self) -> str:
        """Its folder."""
        return str(self.pairset.dir)

    @property
    def size(self) -> Size:
        """Least size (D, H, W) that holds any of its volumes."""
        shapes = [self.pairset.record(item.id)["shape"] for item in self.items]
        d, h, w = np.max(shapes, axis=0).tolist()
        return d, h, w

    def of(self, split: str | None) -> tuple[Item, ...]:
        """Return the pairs of a split, None for all."""
        return tuple(item for item in self.items if split in (None, item.split))

    def settings(self) -> dict[str, Any]:
        """Return what a report says of the set."""
        return {
            "name": self.name,
            "folder": Path(self.dir).absolute().name,
            "manifest_sha256": sha256(self.pairset.manifest.path),
            "pairs": len(self.items),
        }


def open_pool(name: str, folder: str | Path, like: Pool | None = None) -> Pool:
    """Open a pair set and read every pair once.

    Args:
        name: what it is called.
        folder: the pair set.
        like: a set whose schema and spacing it must have.

    Returns:
        The set; pairs whose files are damaged or are not those of the manifest are left out and
        named in ``problems``.

    Raises:
        MedpairError: for no pair set, another schema or spacing, or no pair that can be read.
    """
    pairset = PairSet.open(folder)
    if like is not None:
        check_alike(like.dir, like.pairset, str(folder), pairset)
    items, problems = [], []
    for identity in pairset.ids():
        reason = _damage(pairset, identity)
        if reason is None:
            items.append(_item(pairset, identity))
        else:
            problems.append(f"{name}: pair {identity} is left out: {reason}")
    if not items:
        first = problems[0] if problems else "it holds no pair"
        raise MedpairError(f"{folder}: no pair that can be read ({first}); make the set again")
    return Pool(name, pairset, tuple(items), tuple(problems))


def _damage(pairset: PairSet, identity: str) -> str | None:
    record = pairset.record(identity)
    try:
        for path, key in zip(pairset.paths(identity), ("image", "label"), strict=True):
            if sha256(path) != record.get(f"{key}_sha256"):
                return f"{path}: other content than manifest.jsonl says"
        pairset.read(identity)
    except (MedpairError, OSError) as error:
        return " ".join(str(error).split())
    return None


def _item(pairset: PairSet, identity: str) -> Item:
    record = pairset.record(identity)
    origins = [record.get(key) for key in ("source", "informed")]
    known = [origin for origin in origins if isinstance(origin, dict)]
    person = str(record["person"])
    shown = {person, *(str(o["person"]) for o in known if o.get("person") is not None)}
    mask = next((str(o["mask"]) for o in known if "mask" in o), identity)
    content = (str(record["image_sha256"]), str(record["label_sha256"]))
    return Item(identity, str(record["split"]), person, frozenset(shown), mask, content)


def persons_of(items: Iterable[Item]) -> set[str]:
    """Return all persons of whom the pairs show something."""
    return {person for item in items for person in item.persons}


def refuse_shared_persons(training: Iterable[Item], test: Iterable[Item], name: str) -> None:
    """Raise MedpairError if anyone is in training and in test.

    Args:
        training: pairs that are trained on.
        test: pairs that are tested on.
        name: the training set's, for the message.
    """
    shared = sorted(persons_of(training) & persons_of(test))
    if shared:
        shown = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
        raise MedpairError(
            f"{name}: {len(shared)} test persons are in training ({shown}); test on others, or "
            "leave their pairs out"
        )


def take(source: Source, items: Sequence[Item], real: int, seed: int) -> tuple[Item, ...] | str:
    """Return the pairs that a strategy takes of a set, sorted by id.

    Args:
        source: what it asks for.
        items: the set's training pairs.
        real: number of real training pairs.
        seed: of the draws; a larger part holds the smaller one of the same seed.

    Returns:
        The pairs, or the reason why there are not enough.
    """
    if source.persons is not None:
        return _take_persons(source.persons, items, seed)
    if source.times is None:
        return tuple(items) or f"{source.set} holds no training pair"
    wanted = max(1, round(source.times * real))
    if wanted > len(items):
        return (
            f"{source.times:g} times {real} real pairs are {wanted}, the synthetic set holds "
            f"{len(items)}"
        )
    return tuple(sorted(_rounds(items, seed)[:wanted], key=lambda item: item.id))


def _take_persons(count: int, items: Sequence[Item], seed: int) -> tuple[Item, ...] | str:
    persons = sorted({item.person for item in items})
    if count > len(persons):
        return f"{count} persons wanted, there are {len(persons)}"
    order = np.random.default_rng(seed).permutation(len(persons))[:count]
    chosen = {persons[i] for i in order}
    return tuple(item for item in items if item.person in chosen)


def _rounds(items: Sequence[Item], seed: int) -> list[Item]:
    """First copies of all masks before second ones; within a round at random."""
    copies: dict[str, list[Item]] = {}
    for item in items:
        copies.setdefault(item.mask, []).append(item)
    ordered: list[Item] = []
    for turn in range(max(map(len, copies.values()))):
        group = [found[turn] for found in copies.values() if len(found) > turn]
        order = np.random.default_rng([seed, turn]).permutation(len(group))
        ordered += [group[i] for i in order]
    return ordered


def folds(items: Sequence[Item], count: int) -> list[frozenset[str]]:
    """Return the persons of each fold of a cross-validation, equally many up to one.

    Args:
        items: pairs of all persons.
        count: number of folds.

    Raises:
        MedpairError: for less than two folds, or more than there are persons.
    """
    persons = sorted({item.person for item in items})
    if not 2 <= count <= len(persons):
        raise MedpairError(f"--folds: {count}, wanted 2..{len(persons)}, the number of persons")
    order = np.random.default_rng(0).permutation(len(persons))
    return [frozenset(persons[i] for i in order[first::count]) for first in range(count)]
