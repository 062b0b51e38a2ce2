"""Previews keep place and values, and stay small."""

from __future__ import annotations

import base64
import gzip

import nibabel as nib
import numpy as np

from common.data.datasets import Pair
from common.report.previews import MOST_CHARACTERS, means, middles, previews


def pair(shape: tuple[int, int, int], seed: int = 0) -> Pair:
    rng = np.random.default_rng(seed)
    image = rng.random(shape, dtype=np.float32) * 1.25 - 0.25
    label = rng.integers(0, 5, shape).astype(np.uint8)
    return Pair("a", image, label, np.diag([2.0, 3.0, 4.0, 1.0]))


def opened(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_small_pairs_are_whole() -> None:
    one = pair((4, 5, 6))
    image, label, factor = previews(one, "SI")
    assert factor == 1
    shown = opened(image)
    assert shown.get_data_dtype() == np.uint8
    assert np.allclose(shown.affine, one.affine)
    # SI: the file's axes are R, A, S and ours S, A, R
    assert np.allclose(shown.get_fdata(), one.image.transpose(2, 1, 0), atol=1.5 / 255)
    assert np.array_equal(opened(label).get_fdata(), one.label.transpose(2, 1, 0))


def test_large_pairs_have_fewer_voxels_in_the_same_place() -> None:
    one = pair((60, 90, 80))  # noise, the worst case
    image, label, factor = previews(one, "AP", most=50_000)
    assert factor > 1
    assert len(image) + len(label) <= 50_000
    for text in (image, label):
        shown = opened(text)
        first = np.full(3, (factor - 1) / 2)
        assert np.allclose(shown.affine[:3, 3], first * [2, 3, 4])
        assert np.allclose(np.diag(shown.affine)[:3], factor * np.array([2, 3, 4]))
    assert set(np.unique(opened(label).get_fdata())) <= {0, 1, 2, 3, 4}


def test_the_limit_is_below_half_a_megabyte() -> None:
    image, label, _ = previews(pair((128, 128, 128)), "AP")
    assert len(image) + len(label) <= MOST_CHARACTERS < 500_000


def test_blocks() -> None:
    line = np.arange(5.0).reshape(5, 1, 1)
    assert means(line, 2).ravel().tolist() == [0.5, 2.5, 4.0]
    assert middles(line, 3).ravel().tolist() == [1.0, 4.0]


def test_a_flat_image_keeps_its_value() -> None:
    flat = Pair("a", np.full((2, 2, 2), 0.5, np.float32), np.zeros((2, 2, 2), np.uint8), np.eye(4))
    assert np.allclose(opened(previews(flat, "SI")[0]).get_fdata(), 0.5)
