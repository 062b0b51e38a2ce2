"""Identity: distances on maps whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.identity import identity_kept, same_scan

RNG = np.random.default_rng(1)
SOURCE = RNG.normal(size=(3, 4, 4, 4))
OTHERS = {name: RNG.normal(size=SOURCE.shape) for name in ("b", "c", "d")}


def test_the_own_scan_is_at_distance_zero_and_first() -> None:
    found = identity_kept(SOURCE, SOURCE, OTHERS)
    assert found["to_source"] == found["ratio"] == 0
    assert (found["rank"], found["n_others"]) == (1, 3)


def test_another_persons_scan_is_last_to_its_source() -> None:
    found = identity_kept(OTHERS["c"], SOURCE, OTHERS)
    assert found["nearest_other"] == "c"
    assert found["to_nearest_other"] == 0
    assert found["rank"] == 2
    assert "equals the result" in str(found["ratio"])


def test_half_way_is_as_near_to_both() -> None:
    found = identity_kept((SOURCE + OTHERS["b"]) / 2, SOURCE, {"b": OTHERS["b"]})
    assert found["ratio"] == pytest.approx(1)


def test_the_unit_of_a_channel_does_not_count() -> None:
    factor = np.array([1, 100, 0.01])[:, None, None, None]
    result = SOURCE + 0.1 * OTHERS["b"]
    plain = identity_kept(result, SOURCE, OTHERS)
    scaled = identity_kept(
        result * factor, SOURCE * factor, {k: v * factor for k, v in OTHERS.items()}
    )
    assert plain["to_source"] == pytest.approx(scaled["to_source"])
    flat = np.zeros((1, 2, 2, 2))
    assert identity_kept(flat, flat, {"b": flat})["to_source"] == 0


def test_without_others_there_is_a_reason() -> None:
    found = identity_kept(SOURCE, SOURCE, {})
    assert found["to_source"] == 0
    assert str(found["rank"]).startswith("not computed")


def test_maps_of_two_sizes_are_refused() -> None:
    with pytest.raises(MedpairError, match="one spacing and size"):
        identity_kept(SOURCE, SOURCE[:, 1:], {})


def test_a_scan_is_known_again_in_another_unit_but_not_another_scan() -> None:
    a, b = SOURCE[0], OTHERS["b"][0]
    assert same_scan(a, 3 * a + 5)
    assert not same_scan(a, b)
    assert not same_scan(a, a[1:])
    assert not same_scan(a, np.zeros_like(a))
