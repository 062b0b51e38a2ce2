"""MMD of known Gaussians, bandwidths, and what each measure is called."""

import numpy as np
import pytest

from common.metrics.measures import MEASURES
from common.metrics.set_distances import (
    discrepancy,
    gaussian_kernel,
    kernel_distance,
    median_distance,
    squared_distances,
)


def sample(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows, np.array([str(n) for n in range(len(rows))])


def test_squares_are_those_of_the_vectors_and_exactly_zero_for_equal_ones() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 7, 40)) + 1000
    wanted = ((a[:, None] - b[None]) ** 2).sum(2)
    np.testing.assert_allclose(squared_distances(a, b), wanted, rtol=1e-5)
    assert (np.diag(squared_distances(a, a)) == 0).all()


def test_gaussian_mmd_of_two_gaussians_has_the_closed_form() -> None:
    """E k(x, y) of N(m, I), N(n, I): (s/(s+2))^(d/2) exp(-|m-n|^2/(2(s+2))), s the bandwidth^2."""
    rng = np.random.default_rng(1)
    shift, s = np.array([1.5, 0.0]), 4.0
    a, b = rng.normal(size=(700, 2)), rng.normal(size=(700, 2)) + shift
    wanted = 2 * s / (s + 2) * (1 - np.exp(-(shift @ shift) / (2 * (s + 2))))
    assert kernel_distance(a, b, kernel=gaussian_kernel(2.0)) == pytest.approx(wanted, rel=0.15)


def test_mmd_of_equal_distributions_is_zero_in_the_mean() -> None:
    rng = np.random.default_rng(2)
    values = [
        float(MEASURES["mmd"].of(*(sample(rng.normal(size=(12, 3))) for _ in range(2))))
        for _ in range(300)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0 < max(values)


def test_mmd_grows_with_the_shift() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 40, 3))
    values = [float(MEASURES["mmd"].of(sample(a + shift), sample(b))) for shift in (0, 1, 3)]
    assert values[0] < values[1] < values[2]


def test_the_bandwidth_is_the_median_distance_between_persons() -> None:
    x = np.array([[0.0], [0.1], [3.0], [7.0]])
    assert median_distance(x, ["a", "a", "b", "c"]) == pytest.approx(np.median([3, 2.9, 7, 6.9, 4]))
    flat = sample(np.ones((4, 2)))
    assert "no bandwidth" in str(MEASURES["mmd"].of(flat, flat))


def test_a_linear_kernel_is_the_distance_of_the_means() -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(400):
        a, b = rng.normal(size=(5, 2)) + np.array([2, 0]), rng.normal(size=(6, 2))
        names = [str(n) for n in range(6)]
        found.append(discrepancy(a @ a.T, b @ b.T, a @ b.T, names[:5], names))
    assert np.mean(found) == pytest.approx(4, abs=3 * np.std(found) / 20)


def test_shares_are_better_the_higher_and_unbiased_ones_have_no_ratio() -> None:
    keys = {name: (m.key, m.worst, m.unbiased) for name, m in MEASURES.items()}
    assert keys == {
        "fid": ("distance", 95, False),
        "kid": ("distance", 95, True),
        "mmd": ("distance", 95, True),
        "precision": ("share", 5, False),
        "recall": ("share", 5, False),
    }
    assert MEASURES["recall"].keys == ("share", "floor", "floor_p5", "ratio")
