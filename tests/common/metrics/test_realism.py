"""Mask realism: statistics of shapes known in closed form, distances of sets known in advance."""

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.realism import adjacency, mask_realism, mask_statistics, volume_fractions

SPACING = (2.0, 1.0, 0.5)


def ball(radius: int) -> np.ndarray:
    grid = np.indices((2 * radius + 3,) * 3) - (radius + 1)
    return ((grid**2).sum(0) <= radius**2).astype(np.uint8)


def test_a_box_has_its_exact_volume_surface_and_centre(schema, make_map) -> None:
    found = mask_statistics(make_map(dark=4, bright=3), schema, SPACING)
    a, b, c = 4 * 2.0, 4 * 1.0, 4 * 0.5
    assert found["dark.volume_mm3"] == pytest.approx(a * b * c)
    assert found["dark.surface_to_volume"] == pytest.approx(2 * (1 / a + 1 / b + 1 / c))
    assert found["dark.volume_fraction"] == pytest.approx(4**3 / (16 * 12 * 12))
    assert found["dark.components"] == 1
    # the cube covers voxels 2..5 of 16, 2..5 of 12 and 1..4 of 12 in the body's box
    centre = [found[f"dark.centroid_{axis}"] for axis in "dhw"]
    np.testing.assert_allclose(centre, [4 / 16, 4 / 12, 3 / 12])


def test_a_ball_shows_one_and_a_half_times_its_smooth_surface(schema) -> None:
    radius = 24
    found = mask_statistics(ball(radius), schema, (1, 1, 1))
    assert found["dark.volume_mm3"] == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
    assert found["dark.surface_to_volume"] == pytest.approx(1.5 * 3 / radius, rel=0.02)
    assert found["dark.centroid_d"] == pytest.approx(0.5)


def test_faces_between_boxes_are_counted_once_with_their_area(make_map) -> None:
    area = adjacency(make_map(dark=4, bright=3), 4, SPACING)
    np.testing.assert_array_equal(area, area.T)
    np.testing.assert_array_equal(np.diag(area), 0)
    assert area[1, 2] == pytest.approx(3 * 3 * 2.0 * 1.0)  # touching across W
    assert area[0, 1] == area[0, 2] == 0
    d, h, w = 16 * 2.0, 12 * 1.0, 12 * 0.5
    assert area[0, 3] == pytest.approx(2 * (d * h + h * w + d * w))


def test_the_border_of_the_volume_counts_as_surface(schema) -> None:
    area = adjacency(np.ones((2, 3, 4), np.uint8), 4, (1, 1, 1))
    assert area[0, 1] == 2 * (6 + 8 + 12)


def test_statistics_ignore_where_the_body_stands_and_follow_flips(schema, make_map) -> None:
    label = make_map()
    found = mask_statistics(label, schema, SPACING)
    moved = mask_statistics(np.roll(label, (1, -1, 2), (0, 1, 2)), schema, SPACING)
    assert moved == pytest.approx(found)
    flipped = mask_statistics(label[:, :, ::-1], schema, SPACING)
    for key, value in found.items():
        expected = 1 - value if key.endswith("centroid_w") else value
        assert flipped[key] == pytest.approx(expected), key


def test_finer_voxels_of_the_same_body_change_nothing(schema, make_map) -> None:
    label = make_map()
    fine = label.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    found = mask_statistics(fine, schema, [s / 2 for s in SPACING])
    assert found == pytest.approx(mask_statistics(label, schema, SPACING))


def test_adjacency_shares_sum_to_one(schema, make_map) -> None:
    found = mask_statistics(make_map(), schema, SPACING)
    shares = [value for key, value in found.items() if key.startswith("adjacency.")]
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(1)


def test_an_absent_label_has_zero_volume_and_no_shape(schema, make_map) -> None:
    label = make_map()
    label[label == 2] = 3
    found = mask_statistics(label, schema, SPACING)
    assert found["bright.volume_mm3"] == found["bright.components"] == 0
    assert np.isnan(found["bright.surface_to_volume"])
    assert volume_fractions(np.zeros((2, 2, 2), np.uint8), schema) == {"dark": 0, "bright": 0}
    assert mask_statistics(np.zeros((2, 2, 2), np.uint8), schema, SPACING)["dark.components"] == 0


def test_pieces_that_share_a_corner_are_one(schema) -> None:
    label = np.full((6, 6, 6), 3, np.uint8)
    label[1, 1, 1] = label[2, 2, 2] = 1
    label[4, 4, 4] = 1
    assert mask_statistics(label, schema, SPACING)["dark.components"] == 2


def names(count: int) -> list[str]:
    return [f"p{i}" for i in range(count)]


def test_masks_from_the_same_source_lie_at_the_floor(schema, make_people) -> None:
    report = mask_realism(make_people(40, 1), make_people(40, 2), names(40), schema, SPACING)
    assert report["n_compared"] == 20
    for kind in ("volume_mm3", "volume_fraction", "surface_to_volume", "centroid", "adjacency"):
        assert 0.5 < report["ratio"][kind] < 2, kind


def test_the_distance_of_a_shifted_set_is_the_shift(schema, make_map) -> None:
    """Wasserstein-1 between a set and itself shifted by c is c, at any sample size."""
    real = [make_map() for _ in range(9)]
    moved = [m.copy() for m in real[:5]]
    for mask in moved:  # 2 x 2 x 2 voxels more of `dark`, apart from the rest
        mask[15:17, 11:13, 11:13] = 1
    report = mask_realism(moved, real, names(9), schema, SPACING)
    found = report["statistics"]
    assert report["n_compared"] == 4
    assert found["dark.volume_mm3"]["distance"] == pytest.approx(8 * np.prod(SPACING))
    assert found["dark.components"]["distance"] == pytest.approx(1)
    assert found["bright.volume_mm3"]["distance"] == found["dark.volume_mm3"]["floor"] == 0


def test_a_defect_in_one_label_shows_in_that_label(schema, make_people) -> None:
    real = make_people(20, 4)
    eroded = [m.copy() for m in make_people(20, 5)]
    for mask in eroded:
        mask[4, mask[4] == 1] = 3
    report = mask_realism(eroded, real, names(20), schema, SPACING)
    ratio = {k: report["statistics"][f"{k}.volume_fraction"]["ratio"] for k in ("dark", "bright")}
    assert ratio["dark"] > 2 > ratio["bright"]


def test_one_person_scanned_often_gives_no_floor(schema, make_people) -> None:
    report = mask_realism(make_people(4), make_people(4, 1), ["p"] * 4, schema, SPACING)
    found = report["statistics"]["dark.volume_mm3"]
    assert found["floor"] == "not computed: the real-vs-real floor needs at least 2 persons"
    assert isinstance(found["distance"], float)
    assert report["ratio"]["volume_mm3"].startswith("not computed: ")


def test_scans_of_a_person_never_face_each_other(schema, make_map) -> None:
    """Two persons of two equal scans each: a split by scan would often find a floor of zero."""
    real = [make_map(dark=4), make_map(dark=4), make_map(dark=6), make_map(dark=6)]
    found = mask_realism(real, real, ["a", "a", "b", "b"], schema, SPACING)["statistics"]
    assert found["dark.volume_mm3"]["floor"] == pytest.approx((6**3 - 4**3) * np.prod(SPACING))
    assert found["dark.components"]["ratio"].startswith("not computed: the floor is 0")


def test_a_label_missing_everywhere_is_said_to_be_missing(schema, make_people) -> None:
    bare = [np.where(m == 2, 3, m).astype(np.uint8) for m in make_people(4)]
    found = mask_realism(bare, make_people(4), names(4), schema, SPACING)["statistics"]
    assert "absent" in found["bright.centroid_d"]["distance"]
    assert found["bright.volume_fraction"]["distance"] > 0


def test_equal_seeds_give_equal_reports(schema, make_people) -> None:
    a, b = make_people(6), make_people(8, 1)
    reports = [mask_realism(a, b, names(8), schema, SPACING, seed=s) for s in (1, 1, 2)]
    assert reports[0] == reports[1] != reports[2]


def test_bad_sets_are_refused(schema, make_people) -> None:
    with pytest.raises(MedpairError, match="0 generated and 1 real"):
        mask_realism([], make_people(1), ["p"], schema, SPACING)
    with pytest.raises(MedpairError, match="persons: 1 for 2 real masks"):
        mask_realism(make_people(1), make_people(2), ["p"], schema, SPACING)
