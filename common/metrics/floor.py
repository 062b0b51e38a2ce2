"""The real-vs-real floor: the distance that real scans of different persons have to each other.

A distance between two samples of a few dozen is never zero, so it is read beside the same distance
between two halves of the real set, at the same sample sizes.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.stats import wasserstein_distance

from common.errors import MedpairError
from common.metrics.values import Value, mean_of, not_computed

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Split = tuple[Rows, Rows, Rows]
"""Indices of generated items, and of real items in a first and in a second half."""
T = TypeVar("T")

ONE_PERSON = not_computed("the real-vs-real floor needs at least 2 persons")
UNBIASED = not_computed("an unbiased distance has a floor of 0 on average; compare the two")


def check_persons(persons: Sequence[str], count: int, what: str) -> None:
    """Refuse a list of persons that does not name one for each real item.

    Args:
        persons: the person of each real item.
        count: number of real items.
        what: what the items are, for the message ("masks", "images").

    Raises:
        MedpairError: if the numbers differ.
    """
    if len(persons) != count:
        raise MedpairError(
            f"persons: {len(persons)} for {count} real {what}, one each wanted; list a person "
            f"per {what[:-1]}"
        )


def person_splits(
    n_generated: int,
    persons: Sequence[str],
    repeats: int,
    seed: int,
    generated_persons: Sequence[str] | None = None,
) -> list[Split]:
    """Draw random halves of the real persons, and as many generated items as a half holds.

    Args:
        n_generated: number of generated items.
        persons: the person of each real item; no person stands in both halves.
        repeats: number of splits.
        seed: seed of the splits.
        generated_persons: for images made from real masks, the person of each mask: then those of
            the second half are left out, so that nobody meets an image of the own anatomy. By
            default the anatomy of the generated items is nobody's.

    Returns:
        (generated, real first half, real second half) per split, all of one size; [] for one
        person.
    """
    names = np.array(persons)
    unique = np.unique(names)
    if unique.size < 2:
        return []
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(repeats):
        order = rng.permutation(unique)
        half = order[: unique.size // 2]
        first = rng.permutation(np.flatnonzero(np.isin(names, half)))
        second = rng.permutation(np.flatnonzero(~np.isin(names, half)))
        own = np.isin(np.array(generated_persons or []), order[len(half) :])
        made = rng.permutation(n_generated if generated_persons is None else np.flatnonzero(~own))
        drawn.append((made, first, second))
    drawn = [split for split in drawn if len(split[0])]
    size = min((min(len(part) for part in split) for split in drawn), default=0)
    return [(g[:size], a[:size], b[:size]) for g, a, b in drawn]


def fixed_splits(
    n_generated: int, n_real: int, n_reference: int, repeats: int, seed: int
) -> list[Split]:
    """Pair as many generated as real items with the whole of a reference set of other persons.

    Args:
        n_generated: number of generated items.
        n_real: number of real items.
        n_reference: number of real items that both are compared with.
        repeats: number of splits, where the larger of the first two sets is sampled.
        seed: seed of the splits.

    Returns:
        (generated, real, reference) per split; one split where both sets are used whole.
    """
    size = min(n_generated, n_real)
    rng = np.random.default_rng(seed)
    return [
        (
            rng.permutation(n_generated)[:size],
            rng.permutation(n_real)[:size],
            np.arange(n_reference),
        )
        for _ in range(1 if n_generated == n_real else repeats)
    ]


def against_floor(
    distance: Callable[[T, T], Value],
    triples: Sequence[tuple[T, T, T]],
    absent: str,
    *,
    key: str = "distance",
    worst: int = 95,
) -> dict[str, Value]:
    """Return the mean distance of generated to real items, and that of real to real ones.

    Args:
        distance: of two samples: a number, or a reason, which is left out of the means.
        triples: per split the samples (generated, real, other real): the distance is that of the
            first and the third, the floor that of the second and the third.
        absent: the reason where no split has a number.
        key: what the number is called in the report.
        worst: percentile over splits that says how bad real items can look: 95 for distances, 5 for
            shares, which are better the higher.

    Returns:
        ``distance`` (or `key`), ``floor``, ``floor_p95`` (or of `worst`), ``ratio``.
    """
    distances = [distance(made, other) for made, _, other in triples]
    floors = [distance(real, other) for _, real, other in triples]
    mean, floor = mean_of(distances, absent), mean_of(floors, absent)
    numbers = [f for f in floors if not isinstance(f, str)]
    limit: Value = float(np.percentile(numbers, worst)) if numbers else floor
    return {key: mean, "floor": floor, f"floor_p{worst}": limit, "ratio": ratio(mean, floor)}


def values_against_floor(
    generated: Floats, real: Floats, splits: Sequence[Split], absent: str
) -> dict[str, Value]:
    """Compare the distribution of one number by its Wasserstein-1 distance, beside the floor.

    Args:
        generated: a number per generated item; NaN where it has none, which is left out.
        real: a number per real item.
        splits: from `person_splits`; without any there is a distance but no floor.
        absent: the reason where a whole set has no number.

    Returns:
        As `against_floor`, in the unit of the number.
    """

    def distance(a: Floats, b: Floats) -> Value:
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
        if not a.size or not b.size:
            return not_computed(absent)
        return float(wasserstein_distance(a, b))

    if not splits:
        return without_floor(distance(generated, real))
    triples = [(generated[g], real[a], real[b]) for g, a, b in splits]
    return against_floor(distance, triples, absent)


def without_floor(distance: Value, reason: str = ONE_PERSON) -> dict[str, Value]:
    """Return the numbers of `against_floor` where there is no floor."""
    return {"distance": distance, "floor": reason, "floor_p95": reason, "ratio": reason}


def ratio(value: Value, floor: Value) -> Value:
    """Return a value over its floor, or the reason why there is none."""
    for item in (value, floor):
        if isinstance(item, str):
            return item
    if float(floor) <= 0:
        return not_computed(f"the floor is {float(floor):.3g}: real items cannot be told apart")
    return float(value) / float(floor)
