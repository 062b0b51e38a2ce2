"""What a comparison trains and tests: which pairs, which persons, which chains of trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import MedpairError
from segeval.cells import Cell, Recipe
from segeval.pools import Item, Pool, folds, open_pool, refuse_shared_persons, take
from segeval.strategies import Strategy


@dataclass(frozen=True)
class Sets:
    """The pair sets of a comparison.

    Attributes:
        real: real scans.
        synthetic: generated sets by name.
        target: real scans of another place, that strategies E3 go on to.
        test: real scans to test on; None takes the validation split of the target or real ones.
    """

    real: Pool
    synthetic: Mapping[str, Pool]
    target: Pool | None = None
    test: Pool | None = None

    @property
    def all(self) -> list[Pool]:
        """Each set once."""
        others = [pool for pool in (self.target, self.test) if pool is not None]
        found = [self.real, *self.synthetic.values(), *others]
        return list({id(pool): pool for pool in found}.values())

    @property
    def tested(self) -> Pool:
        """The set that the test cases are of."""
        return self.test or self.target or self.real

    def source(self, kind: str, synthetic: str | None) -> Pool:
        """Return the set that a strategy calls "real", "synthetic" or "target"."""
        pool = self.synthetic[str(synthetic)] if kind == "synthetic" else self.real
        return self.target if kind == "target" and self.target is not None else pool


@dataclass(frozen=True)
class Arm:
    """A strategy with one network and, where it uses one, one synthetic set."""

    network: str
    strategy: str
    synthetic: str | None


@dataclass(frozen=True)
class Trial:
    """A chain of trainings and the cases that its last network is tested on."""

    arm: Arm
    seed: int
    cells: tuple[Cell, ...]
    cases: tuple[Item, ...]


@dataclass(frozen=True)
class Division:
    """Test cases, and the persons that are kept out of training for them.

    Attributes:
        cases: of one fold, or all.
        left_out: persons whose pairs are dropped; without cross-validation nobody's are, and a
            person in training and in test is refused.
        split: of the real scans that is trained on; None for both.
    """

    cases: tuple[Item, ...]
    left_out: frozenset[str] = frozenset()
    split: str | None = "training"

    def training(self, pool: Pool, real: bool) -> tuple[Item, ...]:
        """Return the pairs of a set that may be trained on."""
        items = pool.of(self.split if real else "training")
        return tuple(item for item in items if not item.persons & self.left_out)


def open_sets(
    real: str, synthetic: Sequence[str], target: str | None = None, test: str | None = None
) -> Sets:
    """Open the pair sets of a comparison; schema and spacing are those of the real scans.

    Args:
        real: folder of the real scans.
        synthetic: generated sets, each "NAME=FOLDER" or a folder.
        target: folder, or None.
        test: folder, or None; it may be one of the others.

    Raises:
        MedpairError: for no pair set, another schema or spacing, or a name given twice.
    """
    scans = open_pool("real", real)
    made = {name: open_pool(name, folder, scans) for name, folder in named(synthetic).items()}
    other = None if target is None else open_pool("target", target, scans)
    opened = [pool for pool in (scans, other) if pool is not None]
    same = [p for p in opened if test is not None and Path(p.dir).resolve() == Path(test).resolve()]
    if test is None or same:
        return Sets(scans, made, other, same[0] if same else None)
    return Sets(scans, made, other, open_pool("test", test, scans))


def named(folders: Sequence[str]) -> dict[str, str]:
    """Return pair sets by name, from "NAME=FOLDER" or a folder, whose own name it then has.

    Raises:
        MedpairError: for a name given twice.
    """
    found: dict[str, str] = {}
    for text in folders:
        name, sign, folder = str(text).partition("=")
        if not sign or Path(text).is_dir():
            name, folder = Path(text).absolute().name, str(text)
        if name in found:
            raise MedpairError(f"--synthetic: {name!r} is given twice; name one, as NAME=FOLDER")
        found[name] = folder
    return found


def divide(sets: Sets, count: int | None) -> list[Division]:
    """Return the test cases: of the test set, or fold by fold of the real scans.

    Args:
        sets: of the comparison.
        count: number of folds; None for the test set.

    Raises:
        MedpairError: if there is no test case, or another number of folds than persons allow.
    """
    if count is not None:
        items = sets.real.items
        return [
            Division(tuple(i for i in items if i.person in persons), persons, None)
            for persons in folds(items, count)
        ]
    pool = sets.tested
    trained = pool is sets.real or pool is sets.target
    cases = pool.of("validation" if trained else None)
    if not cases:
        raise MedpairError(
            f"{pool.dir}: no pair in split validation to test on; give --test, or prepare it with "
            "a --holdout"
        )
    return [Division(cases)]


def plan(
    sets: Sets,
    strategies: Sequence[Strategy],
    recipes: Mapping[str, Recipe],
    seeds: Sequence[int],
    divisions: Sequence[Division],
    updates: int | None,
) -> tuple[list[Trial], dict[Arm, str]]:
    """Return what is to be trained and tested.

    Args:
        sets: of the comparison.
        strategies: to run.
        recipes: of the networks, by name.
        seeds: a trial each.
        divisions: a trial each.
        updates: optimiser updates of a full training; None takes the recipe's.

    Returns:
        The trials, and for arms that there are not enough pairs for the reason.

    Raises:
        MedpairError: for a person in training and in test.
    """
    trials: list[Trial] = []
    lacking: dict[Arm, str] = {}
    for network, recipe in recipes.items():
        for arm, strategy in _arms(network, strategies, sets):
            made: list[Trial] = []
            for division in divisions:
                for seed in seeds:
                    chain = _chain(recipe, arm, strategy, sets, division, seed, updates)
                    if isinstance(chain, str):
                        lacking[arm] = chain
                    else:
                        made.append(Trial(arm, seed, chain, division.cases))
            trials += [] if arm in lacking else made
    return trials, lacking


def _arms(
    network: str, strategies: Sequence[Strategy], sets: Sets
) -> Iterator[tuple[Arm, Strategy]]:
    for strategy in strategies:
        for name in sets.synthetic if strategy.needs("synthetic") else [None]:
            yield Arm(network, strategy.name, name), strategy


def _chain(
    recipe: Recipe,
    arm: Arm,
    strategy: Strategy,
    sets: Sets,
    division: Division,
    seed: int,
    updates: int | None,
) -> tuple[Cell, ...] | str:
    """The trainings of a strategy's steps, or why there are not enough pairs."""
    cells: list[Cell] = []
    real = len(division.training(sets.real, real=True))
    for step in strategy.steps:
        data = []
        for source in step.data:
            pool = sets.source(source.set, arm.synthetic)
            items = division.training(pool, source.set == "real")
            taken = take(source, items, real, seed)
            if isinstance(taken, str):
                return taken
            refuse_shared_persons(taken, division.cases, pool.dir)
            data.append((pool, taken))
        count = step.count(updates or recipe.updates)
        initial = cells[-1] if cells else None
        cells.append(recipe.cell(data, count, step.learning_rate, seed, initial))
    return tuple(cells)
