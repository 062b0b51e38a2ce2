"""Diversity: copies, sets that are alike, persons, sizes."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from monai.metrics.regression import MultiScaleSSIMMetric

from common.errors import MedpairError
from common.metrics.diversity import (
    different_persons,
    diversity,
    ms_ssim_note,
    pairwise_lpips,
    pairwise_ms_ssim,
)

SIZE = (16, 16, 18)


def images(count: int, seed: int) -> list[np.ndarray]:
    """Images that share half of what they show."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99).random(SIZE)
    return [(shared / 2 + rng.random(SIZE) / 2).astype(np.float32) for _ in range(count)]


def ms_ssim(made: list[np.ndarray], real: list[np.ndarray]):
    return lambda is_real, pairs: pairwise_ms_ssim(real if is_real else made, pairs)


def test_pairs_are_of_different_persons_and_no_more_than_asked_for() -> None:
    assert different_persons(["a", "a", "b"], 9, 0) == [(0, 2), (1, 2)]
    names = [str(n) for n in range(10)]
    drawn = different_persons(names, 7, 0)
    assert len(set(drawn)) == 7
    assert drawn == sorted(drawn) == different_persons(names, 7, 0)
    assert drawn != different_persons(names, 7, 1)
    assert len(different_persons(names, 100, 0)) == 45


def test_values_are_those_of_single_pairs() -> None:
    volumes = images(3, 0)
    setting = ms_ssim_note(SIZE)
    assert setting["kernel"] == 5
    assert setting["scales"] == 2
    metric = MultiScaleSSIMMetric(
        3, kernel_size=5, weights=setting["weights"], kernel_sigma=setting["kernel_sigma"]
    )
    a, b = (torch.from_numpy(volumes[n])[None, None] for n in (0, 2))
    (found,) = pairwise_ms_ssim(volumes, [(0, 2)])
    assert found == pytest.approx(float(metric(a, b)), abs=1e-5)


def test_copies_of_one_image_are_all_alike() -> None:
    made, real = images(1, 1) * 4, images(4, 2)
    found = diversity(ms_ssim(made, real), list("abcd"), list("wxyz"))
    assert found["pairwise"] == pytest.approx(1)
    assert found["real"] < 0.8
    assert found["ratio"] == pytest.approx(1 / found["real"])
    assert (found["pairs"], found["real_pairs"], found["n"], found["n_real"]) == (6, 6, 4, 4)
    assert found["real_p5"] <= found["real"] <= found["real_p95"]


def test_sets_of_one_kind_are_as_diverse_as_each_other() -> None:
    made, real = images(5, 3), images(5, 4)
    found = diversity(ms_ssim(made, real), list("abcde"), list("vwxyz"))
    assert found["ratio"] == pytest.approx(1, abs=0.05)


def test_what_cannot_be_compared_says_why() -> None:
    made, real = images(1, 0), images(2, 1)
    found = diversity(ms_ssim(made, real), ["a"], ["x", "x"])
    assert found["pairwise"] == found["ratio"] == "not computed: N=1 persons; at least 2 wanted"
    assert found["real"] == "not computed: N=1 persons; at least 2 wanted"
    assert str(found["real_p5"]).startswith("not computed: N=1 real persons")
    small = [np.zeros((8, 9, 9), np.float32)] * 2
    assert pairwise_ms_ssim(small, [(0, 1)]) == ["not computed: size 8x9x9 is too small"]
    with pytest.raises(MedpairError, match="one wanted to compare"):
        pairwise_ms_ssim([*made, *small], [(0, 1)])


def test_lpips_is_taken_over_slices_that_either_shows() -> None:
    seen: list[int] = []

    def metric(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append(len(a))
        return (a - b).abs().mean((1, 2, 3))

    size = (32, 33, 34)
    dark, bright = np.full(size, 0.25, np.float32), np.full(size, 0.5, np.float32)
    labels: Sequence[np.ndarray] = [np.zeros(size, np.uint8) for _ in range(2)]
    labels[0][2:5, 3:7, 4:9] = 1
    labels[1][4:7, 3:7, 4:9] = 2
    found = pairwise_lpips(metric, [dark, bright], labels, [(0, 1), (0, 0)], "SI")
    assert found == pytest.approx([0.5, 0.0])
    assert seen[:3] == [5, 4, 5]
    empty = [np.zeros(size, np.uint8)] * 2
    assert pairwise_lpips(metric, [dark, bright], empty, [(0, 1)], "SI") == [
        "not computed: the mask is empty"
    ]
