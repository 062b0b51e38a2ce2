"""What every metric returns: a finite number, or the reason why there is none."""

import math
from collections.abc import Iterable

import numpy as np

Value = float | str
"""A finite number, or a text that begins with ``not computed: ``."""

_PREFIX = "not computed: "


def not_computed(reason: str) -> str:
    """Return the text that stands where a number cannot stand.

    Args:
        reason: why the metric has no value, without a final stop.
    """
    return f"{_PREFIX}{reason}"


def number(value: float, otherwise: str) -> Value:
    """Return a plain float, or the reason where the value is not finite.

    Args:
        value: what was measured.
        otherwise: the reason reported for NaN and infinities.
    """
    return float(value) if math.isfinite(value) else not_computed(otherwise)


def mean_of(values: Iterable[Value], otherwise: str = "no value to average") -> Value:
    """Average the numbers among the values; the reasons are left out.

    Args:
        values: numbers and reasons.
        otherwise: the reason reported when there is no number.
    """
    numbers = [float(v) for v in values if not isinstance(v, str)]
    return float(np.mean(numbers)) if numbers else not_computed(otherwise)
