"""Detail: equal images, contrast, and the loss of it by blurring."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.errors import MedpairError
from common.metrics.detail import detail, detail_ratio


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((12, 14, 16)).astype(np.float32)


def test_a_flat_image_has_none_and_one_voxel_stands_27_times_around_itself() -> None:
    volume = np.zeros((9, 9, 9), np.float32)
    assert detail(volume) == 0
    volume[4, 4, 4] = 1
    # the voxel lies 26/27 above its local mean, its 26 neighbours 1/27 below theirs
    assert detail(volume) == pytest.approx(2 * 26 / 27 / 9**3, rel=1e-5)


def test_the_ratio_follows_contrast_and_falls_with_blur(image) -> None:
    assert detail_ratio(image, image) == pytest.approx(1)
    assert detail_ratio(0.5 * image + 0.2, image) == pytest.approx(0.5, rel=1e-4)
    assert detail_ratio(gaussian_filter(image, 1.0), image) < 0.5


def test_nothing_can_be_compared_with_a_flat_scan_or_another_grid(image) -> None:
    assert detail_ratio(image, np.zeros_like(image)) == "not computed: the real image is flat"
    with pytest.raises(MedpairError, match=r"shape \(12, 14, 16\), real \(12, 14, 15\)"):
        detail_ratio(image, image[..., :-1])
