"""Frechet and kernel distance against closed forms, sums by hand and invariances."""

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.set_distances import frechet_distance, kernel_distance


def exact_set(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Samples whose mean and covariance are exactly those given."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    factor = np.linalg.cholesky(np.cov(x.T))
    return np.linalg.solve(factor, x.T).T @ np.linalg.cholesky(covariance).T + mean


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T


def by_eigenvalues(a: np.ndarray, b: np.ndarray) -> float:
    """The textbook formula, by eigenvalues of A^(1/2) B A^(1/2)."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = symmetric_root(cov_a)
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


@pytest.mark.parametrize("count", [3, 60])
def test_equal_sets_have_distance_zero(count) -> None:
    x = np.random.default_rng(0).normal(size=(count, 12))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)


def test_gaussians_of_known_mean_and_variance_have_the_closed_form() -> None:
    low, high = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.25])
    a = exact_set(np.zeros(3), np.diag(low), 40, 0)
    b = exact_set(np.array([3.0, 0.0, -4.0]), np.diag(high), 25, 1)
    wanted = 25 + ((np.sqrt(low) - np.sqrt(high)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(wanted)


@pytest.mark.parametrize(("n", "m", "width"), [(50, 70, 6), (5, 9, 20), (8, 90, 20), (2, 2, 30)])
def test_covariances_that_do_not_commute_or_are_singular_follow_the_textbook(n, m, width) -> None:
    rng = np.random.default_rng(n)
    mix = rng.normal(size=(width, width))
    a, b = rng.normal(size=(n, width)) @ mix, rng.normal(size=(m, width)) + 1
    # the textbook takes roots of eigenvalues that rounding has moved from zero
    assert frechet_distance(a, b) == pytest.approx(by_eigenvalues(a, b), rel=1e-5)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("count", [7, 50])
def test_order_and_rotation_do_not_matter(distance, count) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(count, 10)), rng.normal(size=(count + 3, 10)) * 2 + 0.5
    rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    value = distance(a, b)
    assert value > 0.1
    assert distance(b, a) == pytest.approx(value)
    assert distance(rng.permutation(a), rng.permutation(b)) == pytest.approx(value)
    assert distance(a @ rotation, b @ rotation) == pytest.approx(value)


def test_a_shift_adds_its_square_and_float32_loses_nothing() -> None:
    x = np.random.default_rng(2).normal(size=(30, 5)).astype(np.float32)
    assert frechet_distance(x + 1000, x + 1002) == pytest.approx(4 * 5, rel=1e-3)


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(6, 3)) + 1

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    within_a = np.mean([k(a[i], a[j]) for i in range(4) for j in range(4) if i != j])
    within_b = np.mean([k(b[i], b[j]) for i in range(6) for j in range(6) if i != j])
    across = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * across)


def test_kernel_distance_is_unbiased() -> None:
    rng = np.random.default_rng(4)
    values = [kernel_distance(*rng.normal(size=(2, 6, 4))) for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0 < max(values)


def test_pairs_of_one_group_do_not_count() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    groups = ["p", "p", "q", "r", "r"]
    pairs = [(i, j) for i in range(5) for j in range(5) if groups[i] != groups[j]]
    within_a = np.mean([(a[i] @ a[j] / 3 + 1) ** 3 for i, j in pairs])
    plain = np.mean([(a[i] @ a[j] / 3 + 1) ** 3 for i in range(5) for j in range(5) if i != j])
    found = kernel_distance(a, b, groups) - kernel_distance(a, b)
    assert found == pytest.approx(within_a - plain)
    with pytest.raises(MedpairError, match="5 samples of one group"):
        kernel_distance(a, b, ["p"] * 5)


def test_by_person_the_estimate_is_unbiased_for_slices_at_equal_positions() -> None:
    """Every person shows the same positions once: slices are no independent draws."""
    rng = np.random.default_rng(6)
    positions = 3 * rng.normal(size=(5, 4))
    groups = np.repeat(["a", "b", "c"], 5)
    plain, by_person = [], []
    for _ in range(300):
        x, y = (np.tile(positions, (3, 1)) + rng.normal(size=(15, 4)) for _ in range(2))
        plain.append(kernel_distance(x, y))
        by_person.append(kernel_distance(x, y, groups, groups))
    error = np.std(by_person) / np.sqrt(len(by_person))
    assert abs(np.mean(by_person)) < 3 * error
    assert np.mean(plain) < -10 * error


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_sets_that_cannot_be_compared_are_refused(distance) -> None:
    x = np.zeros((3, 4))
    for other in (np.zeros((1, 4)), np.zeros((3, 5)), np.zeros(4)):
        with pytest.raises(MedpairError, match="N >= 2 and one F wanted"):
            distance(x, other)
    with pytest.raises(MedpairError, match="NaN or infinite"):
        distance(x, np.full((3, 4), np.nan))
