"""Training strategies as data: which pairs, in which order, for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.errors import MedpairError
from segeval.paths import bundle_root

SETS = ("real", "synthetic", "target")


@dataclass(frozen=True)
class Source:
    """Pairs of one set.

    Attributes:
        set: "real", "synthetic" or "target".
        times: as many pairs as there are real ones, times this; None takes all.
        persons: number of persons that pairs are taken of; None takes all.
    """

    set: str
    times: float | None = None
    persons: int | None = None


@dataclass(frozen=True)
class Step:
    """One training.

    Attributes:
        data: what it sees.
        updates: shares of a full training's updates, which add up.
        learning_rate: factor of the network's learning rate.
    """

    data: tuple[Source, ...]
    updates: tuple[float, ...] = (1.0,)
    learning_rate: float = 1.0

    def count(self, updates: int) -> int:
        """Return the optimiser updates of the step.

        Args:
            updates: of a full training; each share of it counts for at least 1.
        """
        return sum(max(1, round(share * updates)) for share in self.updates)


@dataclass(frozen=True)
class Strategy:
    """Trainings in order, each from the weights of the one before.

    Attributes:
        name: as the user calls it.
        says: in a few words.
        steps: at least one.
        against: names of the strategies that it is compared with.
    """

    name: str
    says: str
    steps: tuple[Step, ...]
    against: tuple[str, ...]

    def needs(self, name: str) -> bool:
        """Return whether a step uses a set of that kind."""
        return any(source.set == name for step in self.steps for source in step.data)


def read_strategies(path: str | Path | None = None) -> dict[str, Strategy]:
    """Read strategies by name.

    Args:
        path: YAML file like ``configs/strategies.yaml``; None reads that one.

    Raises:
        MedpairError: for a missing file, unknown keys, or values outside their range.
    """
    file = Path(path) if path else Path(bundle_root()) / "configs" / "strategies.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        entries = dict(content["strategies"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise MedpairError(
            f"{file}: no strategies ({type(error).__name__}: {reason}); write it like "
            "configs/strategies.yaml of segmentation_eval"
        ) from error
    return {str(name): _strategy(f"{file}: {name}", str(name), entries) for name in entries}


def choose(strategies: Mapping[str, Strategy], names: Sequence[str]) -> list[Strategy]:
    """Return the strategies of the given names, each once.

    Raises:
        MedpairError: for an unknown name, or none at all.
    """
    unknown = [name for name in names if name not in strategies]
    if unknown or not names:
        found = repr(unknown[0]) if unknown else "none"
        raise MedpairError(f"--strategies: {found}, wanted some of {', '.join(strategies)}")
    return [strategies[name] for name in dict.fromkeys(names)]


def _strategy(key: str, name: str, entries: Mapping[str, Any]) -> Strategy:
    entry = _mapping(key, entries[name], {"says", "steps", "against"})
    steps = entry.get("steps")
    if not isinstance(steps, list) or not steps:
        raise MedpairError(f"{key}: steps {steps}, wanted a list of at least one; correct it")
    against = tuple(str(other) for other in entry.get("against") or ())
    for other in against:
        if other not in entries:
            raise MedpairError(f"{key}: against {other!r}, which is no strategy of the file")
    read = tuple(_step(f"{key}: step {n}", step, entries) for n, step in enumerate(steps, start=1))
    return Strategy(name, str(entry.get("says", name)), read, against)


def _step(key: str, step: Any, entries: Mapping[str, Any]) -> Step:
    entry = _mapping(key, step, {"data", "updates", "learning_rate"})
    data = entry.get("data")
    if not isinstance(data, list) or not data:
        raise MedpairError(f"{key}: data {data}, wanted a list of at least one set; correct it")
    share, rate = entry.get("updates", 1.0), entry.get("learning_rate", 1.0)
    if isinstance(share, str) and share not in entries:
        raise MedpairError(f"{key}: updates of {share!r}, which is no strategy of the file")
    # the steps of another strategy have numbers: no chains of names
    shares = _updates(entries[share]) if isinstance(share, str) else [share]
    return Step(
        tuple(_source(key, item) for item in data),
        tuple(_positive(key, "updates", value) for value in shares),
        _positive(key, "learning_rate", rate),
    )


def _updates(entry: Any) -> list[Any]:
    steps = entry.get("steps") if isinstance(entry, Mapping) else None
    return [step.get("updates", 1.0) for step in steps or () if isinstance(step, Mapping)]


def _source(key: str, item: Any) -> Source:
    entry = {"set": item} if isinstance(item, str) else item
    entry = _mapping(key, entry, {"set", "times", "persons"})
    name, times, persons = (entry.get(k) for k in ("set", "times", "persons"))
    if name not in SETS or (times is not None and persons is not None):
        raise MedpairError(
            f"{key}: data {item}, wanted {', '.join(SETS)}, with times or persons at most"
        )
    if times is not None:
        times = _positive(key, "times", times)
    if persons is not None:
        persons = int(_positive(key, "persons", persons))
    return Source(str(name), times, persons)


def _mapping(key: str, entry: Any, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping) or set(entry) - known:
        raise MedpairError(f"{key}: {entry}, wanted keys {', '.join(sorted(known))}; correct it")
    return entry


def _positive(key: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise MedpairError(f"{key}: {name} {value!r}, wanted a number above 0; correct it")
    return float(value)
