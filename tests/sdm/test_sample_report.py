from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from common.data.datasets import Arrays
from common.data.pictures import three_planes
from common.metrics.set_distances import frechet_distance
from sdm.sample_report import picture_rows, slice_size, split_distances

PERSONS = ("a", "a", "b", "c", "d")


def features(rng: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray:
    return rng.normal(size=(count, 16)) + shift


def test_slices_from_the_real_law_come_close_to_the_floor() -> None:
    rng = np.random.default_rng(0)
    real = [features(rng, 200) for _ in PERSONS]
    near = split_distances(features(rng, 400), real, PERSONS)
    far = split_distances(features(rng, 400, shift=1.0), real, PERSONS)
    assert float(near["ratio"]) == pytest.approx(1, abs=0.5)
    assert float(far["distance"]) == pytest.approx(16, abs=1.5)  # 16 means differ by 1
    assert float(far["ratio"]) > 30


def test_both_sides_have_as_many_slices() -> None:
    rng = np.random.default_rng(0)
    real = [features(rng, n) for n in (9, 9, 9, 9)]
    assert split_distances(features(rng, 100), real, tuple("abcd"))["slices"] == 18
    assert split_distances(features(rng, 5), real, tuple("abcd"))["slices"] == 5


def test_one_split_is_the_distance_of_the_sets() -> None:
    rng = np.random.default_rng(0)
    made, real = features(rng, 20), [features(rng, 20) for _ in range(2)]
    found = split_distances(made, real, tuple("ab"), repeats=1)
    wanted = {frechet_distance(made, rows) for rows in real}
    assert any(found["distance"] == pytest.approx(value) for value in wanted)
    assert found["floor"] == pytest.approx(frechet_distance(*real))


def test_without_two_persons_or_slices_there_is_a_reason() -> None:
    rng = np.random.default_rng(0)
    real = [features(rng, 5) for _ in range(2)]
    assert "at least 2 persons" in str(split_distances(real[0], real, tuple("aa"))["distance"])
    few = split_distances(features(rng, 1), real, tuple("ab"))
    assert few["distance"] == "not computed: a set has fewer than 2 slices"


@pytest.mark.parametrize("slice_axis", ["AP", "SI"])
def test_pictures_stand_upright_as_those_of_volumes(slice_axis: str) -> None:
    volume = np.random.default_rng(0).random((4, 6, 8), dtype=np.float32)
    shown = []
    for axis, n in enumerate(volume.shape):
        middle = volume.take(n // 2, axis)[None, None]
        (((picture,),),) = (picture_rows(middle, axis, slice_axis),)
        shown.append(picture[..., 0])
    wanted = [(plane * 255).round().astype(np.uint8) for plane in three_planes(volume, slice_axis)]
    for plane in wanted:
        assert any(plane.shape == p.shape and np.array_equal(plane, p) for p in shown)


def test_pictures_come_in_rows_of_eight() -> None:
    rows = picture_rows(np.zeros((70, 1, 4, 4), np.float32), 0, "AP")
    assert [len(row) for row in rows] == [8] * 8


def test_slices_are_as_large_as_those_of_the_largest_volume(
    make_arrays: Callable[..., Arrays],
) -> None:
    data = make_arrays(1, (8, 12, 16))
    data.labels.append(np.zeros((10, 6, 4), np.uint8))
    assert [slice_size(data, axis) for axis in range(3)] == [(12, 16), (10, 16), (10, 12)]
