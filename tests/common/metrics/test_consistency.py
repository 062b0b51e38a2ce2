"""Steps between slices: ramps, inserted offsets, flicker along one axis, masks."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.errors import MedpairError
from common.metrics.consistency import (
    PROFILES,
    bend_profile,
    consistency,
    mean_profiles,
    offset_profile,
    seam_index,
    seams,
    step_profile,
)

SIZE = (20, 14, 16)


@pytest.fixture
def ramp() -> np.ndarray:
    """Rises by 0.02 per slice along D, by 0.01 along H, and not along W."""
    d, h, _ = np.indices(SIZE)
    return (0.02 * d + 0.01 * h).astype(np.float32)


@pytest.fixture
def full() -> np.ndarray:
    return np.ones(SIZE, np.uint8)


def scans(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [gaussian_filter(rng.random(SIZE), 1.0).astype(np.float32) for _ in range(count)]


def flicker(image: np.ndarray, axis: int, size: float = 0.05) -> np.ndarray:
    sign = (-1.0) ** np.arange(image.shape[axis])
    return (image + size * np.moveaxis(sign[:, None, None], 0, axis)).astype(np.float32)


@pytest.mark.parametrize(("axis", "step"), [(0, 0.02), (1, 0.01), (2, 0.0)])
def test_a_ramp_has_its_slope_as_step_and_no_bend(axis, step, ramp, full) -> None:
    found = step_profile(ramp, full, axis)
    assert found.shape == (SIZE[axis] - 1,)
    np.testing.assert_allclose(found, step, atol=1e-6)
    np.testing.assert_allclose(bend_profile(ramp, full, axis), 0, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_alternation_bends_by_four_times_its_amplitude(axis, ramp, full) -> None:
    bends = bend_profile(flicker(ramp, axis, 0.05), full, axis)
    assert bends.shape == (SIZE[axis] - 2,)
    np.testing.assert_allclose(bends, 0.2, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_offset_of_a_slice_is_what_it_lies_above_its_neighbours(axis, ramp, full) -> None:
    moved = ramp.copy()
    np.moveaxis(moved, axis, 0)[6] += 0.08
    found = offset_profile(moved, full, axis)
    np.testing.assert_allclose(found[4:7], [0.04, 0.08, 0.04], atol=1e-6)
    np.testing.assert_allclose(np.delete(found, [4, 5, 6]), 0, atol=1e-6)


def test_offsets_look_at_voxels_with_foreground_in_all_three_slices() -> None:
    image, label = np.zeros((4, 1, 3), np.float32), np.ones((4, 1, 3), np.uint8)
    image[1] = [[1.0, 3.0, 100.0]]
    label[0, 0, 2] = 0
    label[3] = 0
    found = offset_profile(image, label, 0)
    assert found[0] == 2  # (1 + 3) / 2
    assert np.isnan(found[1])


def test_a_step_counts_where_either_slice_is_foreground() -> None:
    image, label = np.zeros((4, 1, 3), np.float32), np.zeros((4, 1, 3), np.uint8)
    image[1] = [[1.0, 2.0, 100.0]]
    label[1, 0, :2] = 3
    image[3, 0, 0] = 5.0  # two slices from the foreground
    found = step_profile(image, label, 0)
    np.testing.assert_allclose(found[:2], [1.5, 1.5])
    assert np.isnan(found[2])
    bends = bend_profile(image, label, 0)
    np.testing.assert_allclose(bends[0], 3.0)  # 2 * 1 and 2 * 2 at the two voxels
    assert np.isnan(bends[1])


def test_an_inserted_offset_is_a_seam_of_its_size(ramp, full) -> None:
    assert seam_index(ramp, full, [7, 14], 0) == pytest.approx(1, abs=1e-4)
    moved = ramp.copy()
    moved[7:] += 0.06
    assert seam_index(moved, full, [7], 0) == pytest.approx((0.02 + 0.06) / 0.02, rel=1e-3)
    assert seam_index(moved, full, [14], 0) == pytest.approx(1, abs=1e-4)
    # offsets at two joints side by side do not hide each other
    moved[8:] += 0.06
    assert seam_index(moved, full, [7, 8], 0) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_images_without_joints_have_an_index_near_one(axis, full) -> None:
    joints = [4, 8, 12]
    plain = [seam_index(i, full, joints, axis) for i in scans(12, 0)]
    assert np.mean(plain) == pytest.approx(1, abs=0.1)
    joined = scans(12, 0)
    for image in joined:
        np.moveaxis(image, axis, 0)[8:] += 0.1
    assert np.mean([seam_index(i, full, joints, axis) for i in joined]) > 1.2


def test_a_joint_outside_the_foreground_or_the_volume_is_no_number(ramp, full) -> None:
    label = full.copy()
    label[10:] = 0
    reason = "not computed: no joint lies between steps of the foreground"
    assert seam_index(ramp, label, [15], 0) == reason
    assert seam_index(ramp, label, [], 0) == reason
    assert seam_index(np.zeros_like(ramp), full, [7], 0) == reason
    for joint in (0, 20):
        with pytest.raises(MedpairError, match=rf"slices \[{joint}\], 1\.\.19 wanted"):
            seam_index(ramp, full, [joint], 0)


def test_real_scans_are_as_consistent_as_themselves(full) -> None:
    images = scans(3, 1)
    report = consistency(images, [full] * 3, images, [full] * 3)
    for axis in "DHW":
        for key in PROFILES:
            low, high = report[axis][f"{key}_real_range"]
            assert report[axis][key] == pytest.approx(1)
            assert 0.6 < low < 1 < high < 1.4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flicker_shows_along_its_axis_only_and_most_in_alternation(axis, full) -> None:
    real = scans(3, 2)
    made = [flicker(image, axis) for image in real]
    report = consistency(made, [full] * 3, real, [full] * 3)
    for number, name in enumerate("DHW"):
        values = report[name]
        if number == axis:
            assert values["slice_offset"] > 3 * values["odd_even"]
            assert values["odd_even"] > values["slice_noise"] > 1.5
        else:
            assert [values[key] for key in PROFILES] == pytest.approx([1, 1, 1], rel=1e-4)


def test_noise_of_voxels_is_no_offset_of_slices(full) -> None:
    rng = np.random.default_rng(4)
    real = [image + 0.03 * np.sin(np.arange(SIZE[0]))[:, None, None] for image in scans(3, 4)]
    made = [image + 0.03 * rng.normal(size=SIZE) for image in real]
    values = consistency(made, [full] * 3, real, [full] * 3)["D"]
    assert values["odd_even"] > 1.3
    assert values["slice_offset"] == pytest.approx(1, abs=0.15)


def test_a_blurred_image_is_too_smooth_along_all_axes(full) -> None:
    real = scans(2, 3)
    made = [gaussian_filter(image, 1.0) for image in real]
    report = consistency(made, [full] * 2, real, [full] * 2)
    assert all(report[axis]["slice_noise"] < 0.8 for axis in "DHW")


def test_sets_without_steps_have_reasons(ramp, full) -> None:
    empty = np.zeros_like(full)
    report = consistency([ramp], [empty], [ramp], [full])
    assert report["D"]["slice_noise"].startswith("not computed: no two slices of foreground")
    report = consistency([ramp], [full], [np.zeros_like(ramp)], [full])
    assert report["W"]["odd_even"] == "not computed: the real scans are flat along this axis"
    assert report["W"]["odd_even_real_range"] == report["W"]["odd_even"]


def test_bad_sets_are_refused(ramp, full) -> None:
    with pytest.raises(MedpairError, match="1 real with 0 masks"):
        consistency([ramp], [full], [ramp], [])
    with pytest.raises(MedpairError, match="pair them on one grid"):
        step_profile(ramp, full[1:], 0)


def test_mean_profiles_run_over_the_slices_that_any_image_has(ramp) -> None:
    label = np.zeros(SIZE, np.uint8)
    label[5:9, 2:6, 3:7] = 1
    longer = label.copy()
    longer[9:12, 2:6, 3:7] = 1
    found = mean_profiles([ramp, 3 * ramp], [label, longer])
    assert found["D"]["first"] == 5  # the step from slice 4 to 5
    assert found["D"]["steps"] == pytest.approx([0.04] * 5 + [0.06] * 3)
    assert found["W"]["steps"] == pytest.approx([0] * 5)
    empty = mean_profiles([ramp], [np.zeros(SIZE, np.uint8)])
    assert empty["H"] == "not computed: no two slices of foreground follow each other"
    with pytest.raises(MedpairError, match="one wanted"):
        mean_profiles([ramp, ramp[1:]], [label, label[1:]])


def test_seams_are_those_of_images_whose_joints_are_known(ramp, full) -> None:
    jump = ramp.copy()
    jump[8:] += 0.02  # a step of 0.04 where others are 0.02
    found = seams([jump, jump, ramp], [full] * 3, [[8], None, [8]])
    assert found == {"seam_index": pytest.approx(1.5), "n": 2}
    assert seams([ramp], [full], [None]) == {
        "seam_index": "not computed: no window joints are known",
        "n": 0,
    }
    nowhere = seams([ramp], [np.zeros(SIZE, np.uint8)], [[8]])
    assert nowhere["seam_index"] == "not computed: no joint lies in the foreground"
