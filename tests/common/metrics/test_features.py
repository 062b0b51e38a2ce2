"""Feature distances: floors by person, sets that are alike, reasons where nothing can be said."""

from collections.abc import Callable

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.features import SliceFeatures, feature_distance, slice_features

PERSONS = tuple(f"p{n}" for n in range(12))


def make_set(
    count: int, seed: int, persons: tuple[str, ...] | None = None, shift: float = 0.0
) -> SliceFeatures:
    """Slices of a volume scatter around its own mean, as the slices of a person do."""
    rng = np.random.default_rng(seed)
    views = {
        view: [rng.normal(size=4) + rng.normal(size=(slices, 4)) + shift for _ in range(count)]
        for view, slices in (("A", 9), ("C", 11), ("S", 10))
    }
    return SliceFeatures("toy", views, persons)


ALL = ("fid", "kid", "mmd", "precision", "recall")


def test_every_measure_stands_beside_its_floor() -> None:
    persons = tuple(map(str, range(24)))
    report = feature_distance(make_set(30, 1), make_set(24, 2, persons), measures=ALL, repeats=5)
    assert set(report["mean"]) == set(ALL)
    for name in ("precision", "recall"):
        mean = report["mean"][name]
        assert set(mean) == {"share", "floor", "floor_p5", "ratio"}
        assert 0.7 < mean["share"] <= 1
        assert mean["ratio"] == pytest.approx(1, abs=0.15)
        assert mean["floor_p5"] <= mean["floor"]
    mmd = report["mean"]["mmd"]
    assert abs(mmd["distance"]) < 0.05
    assert "unbiased" in mmd["ratio"]
    numbers = report["views"]["A"]
    assert (numbers["slices"], numbers["reference_slices"]) == (12 * 9, 12 * 9)


def test_a_collapsed_set_has_precision_and_no_recall() -> None:
    real = make_set(24, 2, tuple(map(str, range(24))))
    one = {view: [rows[0] + 1e-6 * n for n in range(24)] for view, rows in real.views.items()}
    report = feature_distance(
        SliceFeatures("toy", one, None), real, measures=("precision", "recall"), repeats=5
    )
    assert report["mean"]["precision"]["share"] > 0.8
    assert report["mean"]["recall"]["share"] < 0.2


def test_a_view_of_whole_volumes_is_one_sample_each() -> None:
    rng = np.random.default_rng(0)
    sets = [
        SliceFeatures("3D", {"3D": [rng.normal(size=(1, 6)) for _ in names]}, names)
        for names in (PERSONS[:5], PERSONS[5:9], ("a", "b", "c", "d", "e"))
    ]
    report = feature_distance(*sets, measures=ALL, repeats=3)
    assert (report["n_compared"], report["views"]["3D"]["slices"]) == (4, 4)
    assert report["mean"]["fid"]["distance"] > 0
    assert report["mean"]["recall"]["share"] >= 0


def test_images_of_the_same_kind_lie_at_the_floor() -> None:
    persons = tuple(map(str, range(60)))
    report = feature_distance(make_set(80, 1), make_set(60, 2, persons))
    assert (report["n_generated"], report["n_real"], report["n_compared"]) == (80, 60, 30)
    assert (report["extractor"], report["repeats"]) == ("toy", 20)
    assert report["views"]["C"]["slices"] == 30 * 11
    assert report["views"]["C"]["features"] == 4
    assert 0.7 < report["mean"]["fid"]["ratio"] < 1.4
    for view in "ACS":
        numbers = report["views"][view]["fid"]
        assert numbers["ratio"] == pytest.approx(numbers["distance"] / numbers["floor"])
        assert numbers["floor_p95"] >= numbers["floor"] > 0


def test_a_shift_of_every_image_shows_in_both_distances() -> None:
    report = feature_distance(make_set(12, 1, shift=3.0), make_set(12, 2, PERSONS))
    floor = report["mean"]["fid"]["floor"]
    assert report["mean"]["fid"]["distance"] == pytest.approx(4 * 9 + floor, rel=0.3)
    assert report["mean"]["fid"]["ratio"] > 5
    kid = report["mean"]["kid"]
    assert kid["distance"] > 5 * kid["floor_p95"] > 0
    assert kid["ratio"].startswith("not computed: an unbiased distance has a floor of 0")


def test_copies_of_the_real_images_lie_exactly_at_the_floor_when_their_persons_are_known() -> None:
    real = make_set(12, 3, PERSONS)
    found = feature_distance(real, real)
    # first half and second half are drawn in different orders of the same volumes
    assert found["mean"]["fid"]["ratio"] == pytest.approx(1)
    nobody = SliceFeatures("toy", real.views, None)
    assert feature_distance(nobody, real)["mean"]["fid"]["ratio"] < 0.9  # they meet themselves


def test_with_a_reference_the_kept_back_scans_are_the_floor() -> None:
    kept, training = make_set(4, 5, PERSONS[:4]), make_set(8, 6, PERSONS[4:])
    report = feature_distance(kept, kept, training)
    assert report["floor"] == "two real sets"
    assert (report["n_reference"], report["n_compared"], report["repeats"]) == (8, 4, 1)
    for kind in ("fid", "kid"):
        numbers = report["views"]["A"][kind]
        assert numbers["distance"] == pytest.approx(numbers["floor"])
        assert "fixed" in numbers["floor_p95"]
    moved = feature_distance(make_set(4, 5, PERSONS[:4], 2.0), kept, training)
    assert moved["mean"]["fid"]["ratio"] > 2


def test_unequal_numbers_are_matched_volume_by_volume_and_slice_by_slice() -> None:
    kept, training = make_set(4, 5, PERSONS[:4]), make_set(8, 6, PERSONS[4:])
    more = make_set(10, 7)
    more.views["A"][:] = [rows[:3] for rows in more.views["A"]]
    report = feature_distance(more, kept, training, repeats=5)
    assert (report["n_compared"], report["repeats"]) == (4, 5)
    assert report["views"]["A"]["slices"] == 4 * 3


def test_one_person_gives_no_number_without_a_floor() -> None:
    report = feature_distance(make_set(3, 0), make_set(3, 1, ("p", "p", "p")))
    for numbers in (report["mean"]["fid"], report["views"]["A"]["kid"]):
        assert set(numbers.values()) == {
            "not computed: the real-vs-real floor needs at least 2 persons"
        }


def test_one_generated_volume_is_said_to_be_too_few() -> None:
    kept, training = make_set(4, 5, PERSONS[:4]), make_set(8, 6, PERSONS[4:])
    report = feature_distance(make_set(1, 0), kept, training, measures=("fid", "precision"))
    assert report["mean"]["fid"]["distance"].startswith("not computed: N=9 samples of 1 volumes")
    assert report["mean"]["precision"]["share"].startswith("not computed: N=")


def test_volumes_without_foreground_are_said_to_have_none() -> None:
    empty = make_set(12, 1)
    empty.views["A"][:] = [rows[:0] for rows in empty.views["A"]]
    report = feature_distance(empty, make_set(12, 2, PERSONS))
    assert "fewer than 2 slices" in report["views"]["A"]["fid"]["distance"]
    assert isinstance(report["mean"]["fid"]["ratio"], float)  # of the other views


def test_equal_seeds_give_equal_reports() -> None:
    a, b = make_set(12, 1), make_set(12, 2, PERSONS)
    one, same, other = (feature_distance(a, b, seed=s) for s in (1, 1, 2))
    assert one == same != other


def test_sets_that_do_not_belong_together_are_refused() -> None:
    real = make_set(12, 2, PERSONS)
    other = SliceFeatures("other", real.views, PERSONS)
    with pytest.raises(MedpairError, match=r"\['other', 'toy'\], one extractor"):
        feature_distance(other, real)
    with pytest.raises(MedpairError, match="persons of a real set are not known"):
        feature_distance(real, make_set(3, 0))
    reference = make_set(2, 1, ("p1", "p2"))
    for generated, kept in ((("x",), ("p1",)), (("p1",), ("x",))):
        with pytest.raises(MedpairError, match=r"\['p1'\] are also in the reference set"):
            feature_distance(make_set(1, 0, generated), make_set(1, 0, kept), reference)


class Means:
    """An extractor: mean and maximum of every slice along D, one row less than slices."""

    name = "means"

    def __call__(self, image: np.ndarray, label: np.ndarray, slice_axis: str) -> dict:
        rows = np.stack([image.mean((1, 2)), image.max((1, 2))], 1).astype(np.float64)
        return {"S": rows, "C": rows, "A": rows[1:]}


def test_features_are_collected_per_view_and_volume(make_map: Callable) -> None:
    images = [np.full((20, 16, 18), v, np.float32) for v in (0.25, 0.5)]
    found = slice_features(Means(), images, [make_map(), make_map()], "SI", ["a", "b"])
    assert (found.extractor, found.volumes, found.persons) == ("means", 2, ("a", "b"))
    assert {view: [len(x) for x in rows] for view, rows in found.views.items()} == {
        "A": [19, 19],
        "C": [20, 20],
        "S": [20, 20],
    }
    np.testing.assert_array_equal(found.views["A"][1], np.full((19, 2), 0.5))


def test_images_want_masks_and_persons(make_map: Callable) -> None:
    image = np.zeros((20, 16, 18), np.float32)
    with pytest.raises(MedpairError, match="1 with 0 masks"):
        slice_features(Means(), [image], [], "SI")
    with pytest.raises(MedpairError, match="persons: 2 for 1 real images"):
        slice_features(Means(), [image], [make_map()], "SI", ["a", "b"])
