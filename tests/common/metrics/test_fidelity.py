"""Paired fidelity: closed forms of SSIM and PSNR, views at the right axes, honest settings."""

import numpy as np
import pytest

from common.errors import MedpairError
from common.metrics.fidelity import (
    WEIGHTS,
    evaluate_images,
    ms_ssim_setting,
    paired_fidelity,
    ssim_kernel,
)

SIZE = (34, 36, 40)


@pytest.fixture
def scan() -> np.ndarray:
    """A smooth image in 0.1..0.9."""
    d, h, w = np.meshgrid(*(np.linspace(0, 3, n) for n in SIZE), indexing="ij")
    return (0.5 + 0.4 * np.sin(d) * np.cos(2 * h) * np.sin(w + 1)).astype(np.float32)


@pytest.fixture
def label() -> np.ndarray:
    shape = np.zeros(SIZE, np.uint8)
    shape[2:-2, 3:-3, 4:-4] = 1
    return shape


@pytest.mark.parametrize(
    ("size", "kernel", "scales"),
    [
        ((192, 160), 11, 4),
        ((96, 80), 7, 4),
        ((48, 40), 7, 3),
        ((16, 20), 5, 2),
        ((256, 256), 11, 5),
        ((256, 256, 256), 7, 4),
        ((96, 80, 80), 7, 4),
        ((48, 40, 40), 7, 3),
    ],
)
def test_the_setting_is_the_nearest_that_fits(size, kernel, scales) -> None:
    setting = ms_ssim_setting(size)
    assert (setting.kernel, setting.scales) == (kernel, scales)
    assert sum(setting.weights) == pytest.approx(1)
    np.testing.assert_allclose(
        np.divide(setting.weights, setting.weights[0]), np.divide(WEIGHTS[:scales], WEIGHTS[0])
    )
    assert ssim_kernel(size) == (7 if len(size) == 3 else 5 if min(size) < 21 else 11)


@pytest.mark.parametrize("side", range(10, 200, 7))
def test_monai_accepts_every_setting_that_is_chosen(side) -> None:
    image = np.linspace(0, 1, side, dtype=np.float32) * np.ones((10, side, 1), np.float32)
    one_voxel = np.zeros(image.shape, np.uint8)
    one_voxel[5, 5, 5] = 1
    found = paired_fidelity(image, image, one_voxel, "AP")
    assert found["C"]["ms_ssim"] == pytest.approx(1, abs=1e-5)
    assert found["3D"]["setting"]["ms_ssim"]["kernel"] == 5
    assert ms_ssim_setting((side, 9)) is None


def test_an_image_is_perfectly_like_itself(scan, label) -> None:
    for view in paired_fidelity(scan, scan, label, "AP").values():
        assert view["ssim"] == pytest.approx(1, abs=1e-5)
        assert view["ms_ssim"] == pytest.approx(1, abs=1e-5)
        assert view["psnr"] == "not computed: the images are equal, PSNR is infinite"


def test_psnr_of_a_constant_error_is_its_logarithm(scan, label) -> None:
    for view in paired_fidelity(scan + 0.05, scan, label, "AP").values():
        assert view["psnr"] == pytest.approx(-20 * np.log10(0.05), abs=1e-3)


def test_ssim_of_two_flat_images_is_its_luminance_term(label) -> None:
    a, b = np.full(SIZE, 0.3, np.float32), np.full(SIZE, 0.6, np.float32)
    c1 = 0.01**2
    expected = (2 * 0.3 * 0.6 + c1) / (0.3**2 + 0.6**2 + c1)
    for view in paired_fidelity(a, b, label, "SI").values():
        assert view["ssim"] == pytest.approx(expected, abs=1e-3)


def test_scores_fall_as_noise_rises_and_do_not_depend_on_the_side(scan, label) -> None:
    noise = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    weak, strong = (paired_fidelity(scan + s * noise, scan, label, "AP") for s in (0.02, 0.1))
    for view in weak:
        for key in ("ssim", "ms_ssim", "psnr"):
            assert weak[view][key] > strong[view][key]
    swapped = paired_fidelity(scan, scan + 0.02 * noise, label, "AP")
    for view, scores in weak.items():
        assert swapped[view]["ssim"] == pytest.approx(scores["ssim"], abs=1e-5)


@pytest.mark.parametrize(("slice_axis", "views"), [("AP", "CAS"), ("SI", "ACS")])
def test_a_broken_slice_shows_in_the_view_it_lies_in(scan, label, slice_axis, views) -> None:
    """A lost slice along D ruins one slice of that view, and a line of each slice of the others."""
    broken = scan.copy()
    broken[15] = 0
    found = paired_fidelity(broken, scan, label, slice_axis)
    assert set(found) == {"3D", "A", "C", "S"}
    assert [found[v]["slices"] for v in views] == [34 - 4, 36 - 6, 40 - 8]
    along, *across = views
    assert isinstance(found[along]["psnr"], float)
    # along D only the broken slice differs, so the mean over differing slices is that slice's own
    lost = -10 * np.log10((scan[15].astype(np.float64) ** 2).mean())
    assert found[along]["psnr"] == pytest.approx(lost, abs=1e-3)
    assert all(found[v]["psnr"] > lost + 10 for v in across)
    assert found[along]["ssim"] > max(found[v]["ssim"] for v in across)


def test_what_lies_beyond_the_scale_is_clipped(scan, label) -> None:
    bright = np.where(scan > 0.8, 3.0, scan).astype(np.float32)
    capped = np.where(scan > 0.8, 1.0, scan).astype(np.float32)
    assert paired_fidelity(bright, scan, label, "AP") == paired_fidelity(capped, scan, label, "AP")


def test_small_or_empty_masks_give_reasons(scan, label) -> None:
    small = (slice(0, 9),) * 3
    found = paired_fidelity(scan[small] + 0.1, scan[small], label[small] + 1, "AP")
    assert found["3D"]["ssim"] == found["3D"]["ms_ssim"] == "not computed: size 9x9x9 is too small"
    assert isinstance(found["3D"]["psnr"], float)
    empty = paired_fidelity(scan, scan, label * 0, "AP")
    assert empty["A"]["psnr"] == empty["A"]["ssim"] == "not computed: the mask is empty"
    assert empty["A"]["slices"] == 0


def test_the_report_averages_over_pairs(scan, label, schema) -> None:
    made = [scan + 0.05, scan + 0.1]
    report = evaluate_images(made, [scan] * 2, [label] * 2, ["a", "b"], schema)
    both = [report["pairs"][name]["views"]["A"]["psnr"] for name in "ab"]
    assert report["n"] == 2
    assert report["mean"]["A"]["psnr"] == pytest.approx(np.mean(both))
    assert report["intensity"]["dark"]["median"] == pytest.approx(0.075, abs=1e-4)
    assert report["intensity"]["dark"]["iqr"] == pytest.approx(0, abs=1e-5)
    assert report["intensity"]["bright"]["median"] == "not computed: label bright is absent"


def test_unpaired_input_is_refused(scan, label, schema) -> None:
    with pytest.raises(MedpairError, match="generate for the real label map on its own grid"):
        paired_fidelity(scan[1:], scan, label, "AP")
    with pytest.raises(MedpairError, match="images: 1 generated, 1 real, 1 masks, 2 ids"):
        evaluate_images([scan], [scan], [label], ["a", "b"], schema)
    with pytest.raises(MedpairError, match="slice_axis: 'XY'"):
        paired_fidelity(scan, scan, label, "XY")
