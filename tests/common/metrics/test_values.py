"""A metric has a number or a reason, never a NaN."""

import math

from common.metrics.values import mean_of, not_computed, number


def test_what_is_not_finite_becomes_its_reason() -> None:
    assert number(2, "unused") == 2.0
    for value in (math.nan, math.inf, -math.inf):
        assert number(value, "no tissue") == "not computed: no tissue"


def test_a_mean_leaves_reasons_out_and_never_invents() -> None:
    assert mean_of([1.0, not_computed("absent"), 3.0]) == 2.0
    assert mean_of([not_computed("absent")], "all absent") == "not computed: all absent"
    assert mean_of([]) == "not computed: no value to average"
