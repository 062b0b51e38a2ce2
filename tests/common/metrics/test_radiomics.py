"""Radiomics: known slices, no made-up numbers, and a distance that rises with blur and noise."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.metrics.features import feature_distance, slice_features, standardised
from common.metrics.radiomics import FEATURES, SliceRadiomics, slice_radiomics

SIZE = (20, 18, 22)


def named(pixels: np.ndarray, shown: np.ndarray) -> dict[str, float]:
    found = slice_radiomics(pixels, shown)
    assert found is not None
    assert np.isfinite(found).all()
    return dict(zip(FEATURES, found.tolist(), strict=True))


def test_a_flat_slice_has_no_texture() -> None:
    found = named(np.full((10, 10), 0.5), np.ones((10, 10), bool))
    for key in ("deviation", "skewness", "kurtosis", "entropy", "gradient_mean", "contrast_1px"):
        assert found[key] == 0
    assert found["mean"] == found["p10"] == found["p90"] == 0.5
    assert found["ASM_1px"] == found["homogeneity_2px"] == found["correlation_1px"] == 1


def test_a_chessboard_is_known_by_its_steps() -> None:
    """Neighbours over an edge differ by all levels, those over a corner by none."""
    board = (np.indices((8, 8)).sum(0) % 2).astype(np.float64)
    found = named(board, np.ones((8, 8), bool))
    assert (found["gradient_mean"], found["entropy"]) == (1, 1)
    edges, corners = 2 * 7 * 8, 2 * 7 * 7
    assert found["contrast_1px"] == pytest.approx(31**2 * edges / (edges + corners))
    assert found["dissimilarity_1px"] == pytest.approx(31 * edges / (edges + corners))
    assert found["skewness"] == pytest.approx(0)
    assert found["kurtosis"] == pytest.approx(1)


def test_only_the_foreground_counts() -> None:
    rng = np.random.default_rng(0)
    pixels, shown = rng.random((12, 12)), np.zeros((12, 12), bool)
    shown[3:9, 2:10] = True
    other = np.where(shown, pixels, rng.random((12, 12)))
    np.testing.assert_array_equal(slice_radiomics(pixels, shown), slice_radiomics(other, shown))
    alone = named(pixels[3:9, 2:10], np.ones((6, 8), bool))
    assert named(pixels, shown) == pytest.approx(alone)


def test_too_little_foreground_is_left_out() -> None:
    pixels, shown = np.random.default_rng(1).random((16, 16)), np.zeros((16, 16), bool)
    shown[:3, :5] = True
    assert slice_radiomics(pixels, shown) is None
    scattered = np.zeros((16, 16), bool)
    scattered[::3, ::3] = True  # 36 pixels, none with a neighbour
    assert slice_radiomics(pixels, scattered) is None
    empty = SliceRadiomics()(np.zeros(SIZE, np.float32), np.zeros(SIZE, np.uint8), "SI")
    assert {view: rows.shape for view, rows in empty.items()} == dict.fromkeys(
        "SCA", (0, len(FEATURES))
    )


def scans(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        (0.5 + 0.12 * rng.normal() + 0.8 * gaussian_filter(rng.normal(size=SIZE), 1.0))
        .clip(0, 1)
        .astype(np.float32)
        for _ in range(count)
    ]


def test_the_distance_rises_with_blur_and_noise() -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[3:17, 3:15, 4:18] = 1
    kept, training = scans(3, 1), scans(4, 2)
    rng = np.random.default_rng(3)

    def distance(images: list[np.ndarray]) -> float:
        sets = [
            slice_features(SliceRadiomics(), part, [mask] * len(part), "SI", names)
            for part, names in ((images, "abc"), (kept, "xyz"), (training, "1234"))
        ]
        found = feature_distance(*standardised(sets, sets[-1]), repeats=2)
        return float(found["mean"]["fid"]["distance"])

    own = distance(scans(3, 4))
    blurred = [distance([gaussian_filter(i, s) for i in scans(3, 4)]) for s in (0.5, 1.0)]
    noisy = [
        distance([(i + s * rng.normal(size=SIZE)).astype(np.float32) for i in scans(3, 4)])
        for s in (0.1, 0.3)
    ]
    assert own < blurred[0] < blurred[1]
    assert own < noisy[0] < noisy[1]


def test_features_are_in_units_of_the_reference() -> None:
    mask = np.ones(SIZE, np.uint8)
    sets = [slice_features(SliceRadiomics(), scans(2, s), [mask] * 2, "SI", "ab") for s in (1, 2)]
    reference = standardised(sets, sets[1])[1]
    rows = np.concatenate(reference.views["C"])
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(rows.std(0), 1)


def test_a_reference_without_any_variation_gives_no_number() -> None:
    flat = [np.full(SIZE, 0.5, np.float32)] * 3
    mask = np.ones(SIZE, np.uint8)
    sets = [
        slice_features(SliceRadiomics(), part, [mask] * 3, "SI", names)
        for part, names in ((scans(3, 1), "abc"), (flat, "xyz"), (flat, "123"))
    ]
    found = feature_distance(*standardised(sets, sets[-1]))
    assert found["mean"]["fid"]["distance"] == "not computed: no feature varies in the real set"
