import dataclasses

import numpy as np
import pytest

from common.data.intensity import bounds, denormalise, intensity_of, normalise
from common.data.labels import load_schema
from common.errors import MedpairError


def test_percentiles_ignore_the_size_of_the_surroundings() -> None:
    tissue = np.random.default_rng(0).uniform(100, 900, 4000)
    rule = intensity_of(load_schema("brain4"))
    tight = bounds(np.concatenate([tissue, np.zeros(4000)]), rule)
    wide = bounds(np.concatenate([tissue, np.zeros(40000)]), rule)
    assert tight == wide
    assert tight[0] == 0
    assert tight[1] == pytest.approx(896, abs=3)


def test_normalising_is_undone() -> None:
    raw = np.random.default_rng(0).normal(500, 300, 1000).astype(np.float32)
    scaled = normalise(raw, "percentile", 20, 900)
    assert scaled.dtype == np.float32
    assert scaled.max() > 1  # the brightest voxels are kept, not clipped
    np.testing.assert_allclose(denormalise(scaled, 20, 900), raw, atol=1e-3)


def test_a_window_clips() -> None:
    rule = intensity_of(load_schema("abdomen4"))
    hu = np.array([-1000, -200, 50, 300, 2000], np.int16)
    assert bounds(hu, rule) == (-200, 300)
    np.testing.assert_allclose(normalise(hu, "window", -200, 300), [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("image", [np.zeros(10), np.full(10, 7.0)])
def test_no_contrast(image: np.ndarray) -> None:
    with pytest.raises(MedpairError, match="wanted contrast"):
        bounds(image, intensity_of(load_schema("brain4")))


@pytest.mark.parametrize(
    "rule",
    [
        {"method": "zscore", "lower": 0, "upper": 1},
        {"method": "window", "lower": 5, "upper": 5},
        {"method": "window", "lower": None, "upper": 5},
    ],
)
def test_wrong_rules(rule: dict[str, object]) -> None:
    schema = dataclasses.replace(load_schema("brain4"), intensity=rule)
    with pytest.raises(MedpairError, match="schema brain4: intensity"):
        intensity_of(schema)
