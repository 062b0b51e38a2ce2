"""Is a difference more than chance? Cases come from persons, and persons are what is drawn.

Two scans of one person are not two persons, so intervals re-draw persons with all their cases, and
tests see one number per person.

P persons, R re-drawn samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from common.errors import MedpairError
from common.metrics.values import Value, not_computed

Floats = npt.NDArray[np.float64]
Cases = Mapping[str, Sequence[float]]
"""The numbers of each person's cases."""

LEAST_PERSONS = 6
"""With fewer the smallest p that the signed-rank test can give exceeds 0.05."""


def by_person(values: Mapping[str, Value], persons: Mapping[str, str]) -> dict[str, list[float]]:
    """Group the numbers of cases by person; the reasons among them are left out.

    Args:
        values: a number or a reason per case.
        persons: the person of each case.
    """
    found: dict[str, list[float]] = {}
    for case, value in values.items():
        if not isinstance(value, str):
            found.setdefault(persons[case], []).append(float(value))
    return found


def bootstrap_interval(
    cases: Cases, *, level: float = 0.95, repeats: int = 10_000, seed: int = 0
) -> dict[str, Value]:
    """Return the mean over cases and its interval from re-drawn persons.

    Persons are drawn with replacement, each with all its cases. The percentiles lie further out
    than the nominal ones, by what Student's t and the factor n / (n - 1) of a small sample ask
    for; plain percentiles of ten persons hold the true mean in 90 % instead of 95 %.

    Args:
        cases: the numbers of each person's cases; each person has one or more.
        level: of the interval, in (0, 1).
        repeats: R.
        seed: of the draws.

    Returns:
        ``mean``, ``low``, ``high``; the last two are reasons for fewer than two persons.

    Raises:
        MedpairError: for a level or number of samples outside its range.

    Source: Hesterberg 2015 (The American Statistician 69, 371-386), expanded percentile interval.
    """
    if not 0 < level < 1 or repeats < 1:
        raise MedpairError(
            f"level: {level}, repeats: {repeats}; wanted a level in (0, 1) and repeats >= 1"
        )
    if not cases:
        return dict.fromkeys(("mean", "low", "high"), not_computed("no case has a number"))
    sums = np.array([np.sum(values) for values in cases.values()])
    counts = np.array([len(values) for values in cases.values()], dtype=np.float64)
    mean = float(sums.sum() / counts.sum())
    n = len(sums)
    if n < 2:
        reason = not_computed(f"N={n} persons, wanted at least 2")
        return {"mean": mean, "low": reason, "high": reason}
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=repeats)
    means_R: Floats = (drawn @ sums) / (drawn @ counts)
    tail = stats.norm.cdf(stats.t.ppf((1 - level) / 2, n - 1) * np.sqrt(n / (n - 1)))
    low, high = np.quantile(means_R, [tail, 1 - tail])
    return {"mean": mean, "low": float(low), "high": float(high)}


def signed_rank(cases: Cases, least: int = LEAST_PERSONS) -> Value:
    """Return the p-value of Wilcoxon's signed-rank test that differences lie around 0.

    Args:
        cases: differences of each person's cases, of which the mean counts.
        least: persons below which nothing is computed.

    Returns:
        Two-sided p in (0, 1], exact for small samples, or the reason why there is none.
    """
    means = [float(np.mean(values)) for values in cases.values()]
    if len(means) < least:
        return not_computed(f"N={len(means)} persons, wanted at least {least}")
    if not any(means):
        return not_computed(f"all {len(means)} persons have difference 0")
    return float(stats.wilcoxon(means).pvalue)


def adjust(p_values: Mapping[str, Value]) -> dict[str, Value]:
    """Return p-values corrected for their number, by Benjamini and Hochberg.

    Args:
        p_values: of one family; the reasons among them do not count and stay.

    Returns:
        By the same names: the share of false discoveries if this one is called a discovery.
    """
    numbers = {name: p for name, p in p_values.items() if not isinstance(p, str)}
    found: Any = stats.false_discovery_control(list(numbers.values())) if numbers else []
    corrected = dict(zip(numbers, (float(p) for p in found), strict=True))
    return {name: corrected.get(name, p) for name, p in p_values.items()}
