from __future__ import annotations

import pytest
import torch

from common.errors import MedpairError
from sdm.modulation import GIB, Budget, ModulationCache, SliceCost

COST = SliceCost(kept=GIB // 100, working=GIB // 50)


@pytest.mark.parametrize("gigabytes", [0.05, 0.3, 1.0, 7.5])
def test_a_plan_stays_within_the_budget(gigabytes: float) -> None:
    plan = Budget.plan(gigabytes, COST, most=64)
    assert 1 <= plan.slices <= 64
    # the cache may be full while a call works with maps of its own
    call = plan.slices * (COST.working + COST.kept)
    assert 0.85 * gigabytes * GIB < call + plan.cache_bytes <= gigabytes * GIB


def test_what_else_takes_memory_is_counted() -> None:
    plain, less = (Budget.plan(0.5, COST, 64, reserved) for reserved in (0, GIB // 4))
    assert less.slices < plain.slices
    call = less.slices * (COST.working + COST.kept)
    assert call + less.cache_bytes + GIB // 4 <= 0.5 * GIB
    with pytest.raises(MedpairError, match=r"0\.5; one slice and the shared noise want 0\.589;"):
        Budget.plan(0.5, COST, 64, GIB // 2)


def test_more_memory_means_more_slices_up_to_the_most() -> None:
    counts = [Budget.plan(g, COST, most=16).slices for g in (0.1, 0.3, 1.0, 4.0)]
    assert counts == sorted(counts)
    assert counts[-1] == 16


def test_less_than_a_slice_is_refused() -> None:
    with pytest.raises(MedpairError, match=r"memory_budget_gb: 0\.01; one slice wants 0\.0333;"):
        Budget.plan(0.01, COST, most=8)


def test_guidance_costs_its_second_pass() -> None:
    maps = [torch.zeros(1, 8, 4, 4), torch.zeros(1, 4, 8, 8)]
    one, two = SliceCost.of(maps, 1), SliceCost.of(maps, 2)
    assert one.kept == (8 * 16 + 4 * 64) * 4
    assert two.kept == 3 * one.kept
    assert two.working == 2 * one.working


def test_the_cache_keeps_what_fits_and_makes_the_rest_again() -> None:
    made: list[str] = []

    def bind(name: str):  # type: ignore[no-untyped-def]
        made.append(name)
        return lambda x, t: x

    cache = ModulationCache(bytes_left=10)
    for _ in range(3):
        for name, size in (("a", 6), ("b", 6), ("c", 4)):
            cache.get(name, size, lambda name=name: bind(name))  # type: ignore[misc]
    assert made == ["a", "b", "c", "b", "b"]
    assert cache.bytes_left == 0
