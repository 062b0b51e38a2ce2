"""Which pairs train and which validate when real and generated pair sets are joined."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.datasets import PairSet
from common.errors import MedpairError

FOLD_SEED = 12345
Folds = list[dict[str, list[str]]]


@dataclass(frozen=True)
class Source:
    """A pair set that takes part.

    Args:
        pairset: the pair set.
        split: "training" or "validation"; None for both.
        copies: at most so many generated pairs per mask, the first by id; None for all.
    """

    pairset: PairSet
    split: str | None = None
    copies: int | None = None


@dataclass(frozen=True)
class Case:
    """A pair as a case.

    Attributes:
        name: ``s<number of the set>_<id>``.
        pairset: where it lies.
        id: its id there.
        real: whether image and mask are those of a scan.
        persons: whose mask and, where one informed the image, whose slice it shows.
        split: "training" or "validation" (kept back).
    """

    name: str
    pairset: PairSet
    id: str
    real: bool
    persons: frozenset[str]
    split: str

    def to_dict(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {
            "set": self.pairset.dir.name,
            "id": self.id,
            "real": self.real,
            "persons": sorted(self.persons),
            "split": self.split,
        }


@dataclass(frozen=True)
class Plan:
    """The cases and their folds.

    Attributes:
        training: cases that train or validate.
        test: kept-back real cases that do neither.
        splits: per fold the names under "train" and "val".
        left_out: why a generated pair is in neither, by case name.
    """

    training: tuple[Case, ...]
    test: tuple[Case, ...]
    splits: Folds
    left_out: Mapping[str, str]

    def judged(self, fold: int) -> tuple[Case, ...]:
        """Return the kept-back cases, or those that validate a fold where none were kept back."""
        names = set(self.splits[fold]["val"])
        return self.test or tuple(case for case in self.training if case.name in names)


def find_cases(sources: Sequence[Source]) -> list[Case]:
    """Return all pairs of some sets, generated ones with the persons that they show.

    A generated pair names the person of its mask, or carries the mask of a real pair voxel by
    voxel; else it shows nobody.

    Args:
        sources: the pair sets.
    """
    cases = [case for number, source in enumerate(sources) for case in _cases(number, source)]
    if all(case.real for case in cases):
        return cases
    owners = {_mask(case): case.persons for case in cases if case.real}
    return [case if case.real else _with_owner(case, owners) for case in cases]


def _cases(number: int, source: Source) -> Iterator[Case]:
    seen: dict[str, int] = {}
    for identity in source.pairset.ids(source.split):
        record = source.pairset.record(identity)
        real = is_real(source.pairset, record)
        if not real and source.copies is not None:
            key = _mask_name(record)
            seen[key] = seen.get(key, 0) + 1
            if seen[key] > source.copies:
                continue
        name, split = f"s{number}_{identity}", str(record["split"])
        yield Case(name, source.pairset, identity, real, frozenset(_persons(record)), split)


def is_real(pairset: PairSet, record: Mapping[str, Any]) -> bool:
    """Return whether a pair is a scan with its own mask; phantoms count as scans.

    Args:
        pairset: the pair set.
        record: the pair's manifest line.
    """
    return "phantom" in pairset.header or "grid" in record


def _mask_name(record: Mapping[str, Any]) -> str:
    source = record.get("source")
    named = source if isinstance(source, dict) else {}
    return str(named.get("mask") or named.get("label") or record["id"])


def _persons(record: Mapping[str, Any]) -> Iterator[str]:
    yield str(record["person"])
    informed = record.get("informed")
    if isinstance(informed, dict) and informed.get("person") is not None:
        yield str(informed["person"])


def _mask(case: Case) -> str:
    label = case.pairset.read(case.id).label
    return hashlib.sha256(repr(label.shape).encode() + label.tobytes()).hexdigest()


def _with_owner(case: Case, owners: Mapping[str, frozenset[str]]) -> Case:
    persons = case.persons | owners.get(_mask(case), frozenset())
    return Case(case.name, case.pairset, case.id, case.real, persons, case.split)


def plan_splits(cases: Sequence[Case], folds: int) -> Plan:
    """Split cases so that validation is real and nobody is on both sides.

    Args:
        cases: from `find_cases`.
        folds: 1 validates on the kept-back real cases; K >= 2 on each of K parts of the real
            persons in training, and the kept-back ones become test cases.

    Returns:
        The folds. Generated pairs that show a kept-back person are left out; those that show a
        person of a fold's validation are left out of that fold.

    Raises:
        MedpairError: if a real person is kept back and in training, or there are too few persons
            or no training pair.
    """
    kept = [case for case in cases if case.real and case.split == "validation"]
    hidden = frozenset[str]().union(*(case.persons for case in kept))
    both = [c for c in cases if c.real and c.split == "training" and c.persons & hidden]
    if both:
        who = min(both[0].persons & hidden)
        raise MedpairError(
            f"person {who}: in training ({both[0].pairset.dir} {both[0].id}) and kept back, wanted "
            "one of both; leave one of the pair sets out, or prepare them with --persons"
        )
    left_out = {
        c.name: "it shows a kept-back person" for c in cases if not c.real and c.persons & hidden
    }
    training = [c for c in cases if not (c.real and c.split == "validation")]
    training = [c for c in training if c.name not in left_out]
    if not training:
        raise MedpairError("pair sets: no pair to train on, wanted at least one; add a pair set")
    if folds == 1:
        return _one_fold(training, kept, left_out)
    return Plan(tuple(training), tuple(kept), _by_person(training, folds), left_out)


def _one_fold(training: Sequence[Case], kept: Sequence[Case], left_out: Mapping[str, str]) -> Plan:
    if not kept:
        raise MedpairError(
            "pair sets: no real scan was kept back, wanted at least one to validate on; give "
            "--test PAIRSET, prepare with --holdout, or cross-validate with --folds 5"
        )
    fold = {"train": [c.name for c in training], "val": [c.name for c in kept]}
    return Plan((*training, *kept), (), [fold], left_out)


def _by_person(training: Sequence[Case], folds: int) -> Folds:
    persons = sorted(frozenset[str]().union(*(c.persons for c in training if c.real)))
    if folds < 2 or folds > len(persons):
        raise MedpairError(
            f"--folds: {folds} with {len(persons)} real persons in training, wanted 1 (validate on "
            "kept-back scans) or 2 to as many as there are persons; choose another number"
        )
    order = np.random.default_rng(FOLD_SEED).permutation(persons).tolist()
    splits = []
    for fold in range(folds):
        own = frozenset(order[fold::folds])
        val = [c.name for c in training if c.real and c.persons & own]
        splits.append({"train": [c.name for c in training if not c.persons & own], "val": val})
    return splits
