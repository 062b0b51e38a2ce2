"""Kernel distance of voxels: the mean image, persons, sizes."""

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.floor import fixed_splits, person_splits
from common.metrics.voxels import products, voxel_distance

SIZE = (4, 5, 6)


def images(count: int, seed: int, shift: float = 0.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(shift + rng.normal(size=SIZE)).astype(np.float32) for _ in range(count)]


def test_products_are_means_over_voxels() -> None:
    a, b = images(2, 0)
    found = products([a, b])
    assert found[0, 1] == found[1, 0] == pytest.approx(float((a * b).mean()), rel=1e-5)


def test_a_shifted_mean_is_measured_squared() -> None:
    volumes = images(40, 1, 0.5) + images(40, 2) + images(40, 3)
    rows = fixed_splits(40, 40, 40, 3, 0)
    triples = [(g, 40 + a, 80 + b) for g, a, b in rows]
    found = voxel_distance(volumes, [str(n) for n in range(120)], triples)
    assert found["distance"] == pytest.approx(0.25, abs=0.02)
    assert abs(float(found["floor"])) < 0.01
    assert "unbiased" in str(found["ratio"])
    assert (found["n_compared"], found["n_reference"]) == (40, 40)


def test_a_collapsed_set_is_not_seen_and_pairs_of_one_person_do_not_count() -> None:
    one = images(1, 4)
    volumes = one * 3 + images(6, 5)
    triples = person_splits(3, [str(n) for n in range(6)], 2, 0)
    triples = [(g, 3 + a, 3 + b) for g, a, b in triples]
    found = voxel_distance(volumes, ["p"] * 3 + [str(n) for n in range(6)], triples)
    assert found["distance"] == "not computed: a set has fewer than 2 persons"
    assert isinstance(found["floor"], float)
    assert "at least 2 persons" in str(voxel_distance(volumes, ["p"] * 9, [])["distance"])


def test_other_sizes_are_refused() -> None:
    with pytest.raises(MedpairError, match="one shape wanted"):
        products([np.zeros(SIZE, np.float32), np.zeros((4, 5, 7), np.float32)])
