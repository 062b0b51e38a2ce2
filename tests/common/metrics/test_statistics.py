from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from common.errors import MedpairError
from common.metrics.statistics import adjust, bootstrap_interval, by_person, signed_rank


def covered(n_persons: int, per_person: int, trials: int = 300) -> float:
    """How often the interval of simulated persons holds the true mean, 0.3."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(trials):
        own = rng.normal(0.3, 1.0, n_persons)  # scans of a person are alike
        values = {
            f"p{i}": (mean + rng.normal(0, 0.3, per_person)).tolist() for i, mean in enumerate(own)
        }
        found = bootstrap_interval(values, repeats=800)
        low, high = found["low"], found["high"]
        assert isinstance(low, float)
        assert isinstance(high, float)
        hits += low <= 0.3 <= high
    return hits / trials


@pytest.mark.parametrize("n_persons", [8, 25])
def test_the_interval_holds_the_true_mean_as_often_as_it_says(n_persons: int) -> None:
    """95 % within three standard errors of 300 trials; scans as if persons hold it in 60 %."""
    assert 0.91 <= covered(n_persons, 3) <= 0.985


def test_persons_are_drawn_with_all_their_scans() -> None:
    """Two persons: a drawn sample is one of them twice, or both."""
    found = bootstrap_interval({"a": [1.0, 1.0, 1.0], "b": [5.0]}, repeats=2000)
    assert found["mean"] == pytest.approx(2.0)
    assert (found["low"], found["high"]) == (1.0, 5.0)


def test_equal_differences_have_no_width() -> None:
    found = bootstrap_interval({f"p{i}": [0.25] for i in range(5)})
    assert found == {"mean": 0.25, "low": 0.25, "high": 0.25}


def test_a_wider_level_is_a_wider_interval_and_draws_are_fixed() -> None:
    values = {f"p{i}": [float(v)] for i, v in enumerate(np.random.default_rng(1).normal(size=12))}
    wide, narrow = (bootstrap_interval(values, level=level) for level in (0.99, 0.5))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]  # type: ignore[operator]
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_one_person_has_no_interval() -> None:
    found = bootstrap_interval({"a": [1.0, 2.0]})
    assert found["mean"] == 1.5
    assert found["low"] == found["high"] == "not computed: N=1 persons, wanted at least 2"
    assert set(bootstrap_interval({}).values()) == {"not computed: no case has a number"}
    with pytest.raises(MedpairError, match=r"level: 1\.0, repeats: 10000; wanted"):
        bootstrap_interval({"a": [1.0]}, level=1.0)


def test_the_signed_rank_test_is_exact_for_few_persons() -> None:
    """Six persons that all gain: one of 2^6 signs, on either side."""
    gains = {f"p{i}": [0.1 * (i + 1)] for i in range(6)}
    assert signed_rank(gains) == pytest.approx(2 / 64)
    mixed = {f"p{i}": [float(v)] for i, v in enumerate([1, 2, 3, 4, 5, 6, -7])}
    # rank sums of 7 or less in 2^7 signs: 19 subsets of 1..7
    assert signed_rank(mixed) == pytest.approx(2 * 19 / 128)
    assert signed_rank(mixed) == pytest.approx(stats.wilcoxon([1, 2, 3, 4, 5, 6, -7]).pvalue)


def test_a_person_counts_once_however_many_scans() -> None:
    one = {f"p{i}": [float(i + 1)] for i in range(7)}
    thrice = {name: [values[0] - 1, values[0], values[0] + 1] for name, values in one.items()}
    assert signed_rank(one) == signed_rank(thrice)


def test_few_persons_or_no_difference_have_no_test() -> None:
    five = {f"p{i}": [1.0 + i] * 4 for i in range(5)}
    assert signed_rank(five) == "not computed: N=5 persons, wanted at least 6"
    same = {f"p{i}": [0.0] for i in range(8)}
    assert signed_rank(same) == "not computed: all 8 persons have difference 0"


def test_the_signed_rank_test_calls_chance_by_its_level() -> None:
    rng = np.random.default_rng(2)
    draws = rng.normal(size=(400, 12))
    p_values = [signed_rank({str(i): [v] for i, v in enumerate(row)}) for row in draws.tolist()]
    assert 0.02 <= np.mean([p < 0.05 for p in p_values if isinstance(p, float)]) <= 0.08


def test_correction_is_that_of_benjamini_and_hochberg() -> None:
    """By hand: p times m / rank, then the running minimum from the largest."""
    found = adjust({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.5})
    wanted = {"b": 0.04, "c": 0.04 * 4 / 3, "a": 0.04 * 4 / 3, "d": 0.5}
    assert found == pytest.approx(wanted)
    p_values = np.random.default_rng(3).uniform(size=20)
    ours = adjust({str(i): p for i, p in enumerate(p_values.tolist())})
    assert list(ours.values()) == pytest.approx(stats.false_discovery_control(p_values).tolist())


def test_reasons_do_not_count_as_tests() -> None:
    reason = "not computed: N=3 persons, wanted at least 6"
    assert adjust({"a": 0.03, "b": reason}) == {"a": 0.03, "b": reason}
    assert adjust({"a": reason}) == {"a": reason}


def test_cases_are_grouped_by_person() -> None:
    persons = {"1": "a", "2": "b", "3": "a", "4": "c"}
    found = by_person({"1": 0.1, "2": 0.2, "3": 0.3, "4": "not computed: no"}, persons)
    assert found == {"a": [0.1, 0.3], "b": [0.2]}
