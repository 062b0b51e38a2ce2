"""D slices per volume, H, W slice size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.datasets import load_arrays
from common.data.slice_augment import AugmentRanges
from common.engines.batches import IterationBatches, iteration_generator
from common.errors import MedpairError
from gem3d.volumes import SliceBatches, pad_in_plane, to_image, training_volumes

PHANTOM = "phantom:brain4:16x18x17:2"


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), factor=st.sampled_from([1, 2, 4, 8]))
def test_padding_reaches_the_next_multiple_at_the_far_ends(
    height: int, width: int, factor: int
) -> None:
    volume = torch.rand(2, height, width)
    padded = pad_in_plane(volume, factor, -1.0)
    assert all(n % factor == 0 for n in padded.shape[1:])
    assert padded.shape[1] - height < factor
    assert padded.shape[2] - width < factor
    assert torch.equal(padded[:, :height, :width], volume)
    assert (padded[:, height:] == -1).all()
    assert (padded[:, :, width:] == -1).all()


def test_images_are_scaled_and_clamped() -> None:
    found = to_image(np.array([[[-0.5, 0.0, 0.25, 1.0, 1.5]]], np.float64))
    assert found.dtype == torch.float32
    assert found[0, 0].tolist() == [-1, -1, -0.5, 1, 1]


def test_scans_are_padded_with_background() -> None:
    data = load_arrays(PHANTOM, "training")
    volumes = training_volumes(data, "brain4", 6, factor=4)
    for image, label, scan, mask in zip(
        volumes.images, volumes.labels, data.images, data.labels, strict=True
    ):
        assert image.shape == label.shape == (16, 20, 20)
        np.testing.assert_allclose(image[:, :18, :17], np.clip(scan * 2 - 1, -1, 1), atol=1e-6)
        np.testing.assert_array_equal(label[:, :18, :17], mask)
        assert label.dtype == torch.uint8
        assert (image[:, 18:] == -1).all()
        assert not label[:, :, 17:].any()


@pytest.mark.parametrize(("schema", "classes"), [("thorax7", 6), ("brain4", 5)])
def test_data_of_another_schema_are_refused(schema: str, classes: int) -> None:
    with pytest.raises(MedpairError, match=rf"'brain4' with 6|'brain4' \(6 classes\).*{schema}"):
        training_volumes(load_arrays(PHANTOM, "training"), schema, classes, factor=4)


def test_without_copies_scans_are_drawn_as_they_are(make: Any) -> None:
    volumes = make.volumes()
    generator = torch.Generator().manual_seed(0)
    drawn = [volumes.draw(generator) for _ in range(12)]
    assert {volume.key for volume in drawn} == {(0, 0), (1, 0)}
    for volume in drawn:
        assert volume.image_DHW is volumes.images[volume.key[0]]
        assert volume.label_DHW is volumes.labels[volume.key[0]]


def test_copies_are_made_once_and_do_not_depend_on_when(make: Any) -> None:
    one, other = make.volumes(copies=3), make.volumes(copies=3)
    first = one.volume(1, 2)
    assert one.volume(1, 2) is first
    for index in (0, 1):
        other.volume(index, 0)
    again = other.volume(1, 2)
    assert torch.equal(first.image_DHW, again.image_DHW)
    assert torch.equal(first.label_DHW, again.label_DHW)
    keys = {one.draw(torch.Generator().manual_seed(n)).key for n in range(60)}
    assert keys == {(index, copy) for index in range(2) for copy in range(3)}
    third = make.volumes(copies=3, seed=9).volume(1, 2)
    assert not torch.equal(first.image_DHW, third.image_DHW)


def test_a_change_moves_image_and_mask_together(make: Any) -> None:
    ranges = AugmentRanges(mirror=1.0, affine=0.0, jitter=0.0)
    volumes = make.volumes(copies=1, ranges=ranges)
    mirrored = volumes.volume(0, 0)
    assert torch.equal(mirrored.image_DHW, volumes.images[0].flip(-1))
    assert torch.equal(mirrored.label_DHW, volumes.labels[0].flip(-1))


def test_a_mirror_image_exchanges_the_sides_labels(make: Any) -> None:
    volumes = make.volumes(copies=1, ranges=AugmentRanges(mirror=1.0, affine=0.0))
    volumes.flip_lut = torch.tensor([0, 2, 1, 3, 4, 5])
    expected = volumes.flip_lut[volumes.labels[0].long()].flip(-1)
    assert torch.equal(volumes.volume(0, 0).label_DHW.long(), expected)


def test_jitter_changes_the_brightness_of_a_whole_copy_but_no_background(make: Any) -> None:
    ranges = AugmentRanges(mirror=0.0, affine=0.0, jitter=0.3)
    volumes = make.volumes(copies=1, ranges=ranges)
    volumes.images[0][:, :, 0] = -1
    changed = volumes.volume(0, 0)
    assert torch.equal(changed.label_DHW, volumes.labels[0])
    assert (changed.image_DHW[:, :, 0] == -1).all()
    before, after = volumes.images[0].flatten(), changed.image_DHW.flatten()
    assert not torch.allclose(before, after)
    assert (after[before.argsort()].diff() >= -1e-6).all()  # one curve for all voxels


def test_batches_depend_on_seed_and_iteration_only(make: Any) -> None:
    """Whatever was drawn before, batch i is the same: what makes resuming exact."""
    one = IterationBatches(SliceBatches(make.volumes(copies=4), 3), 5, 10)
    batches = [batch for _, batch in zip(range(4), one, strict=False)]
    other = IterationBatches(SliceBatches(make.volumes(copies=4), 3), 5, 10)
    other.iteration = 2
    again = next(iter(other))
    assert again["iteration"] == 2
    assert torch.equal(again["image"], batches[2]["image"])
    assert not torch.equal(batches[2]["image"], batches[3]["image"])
    different = SliceBatches(make.volumes(copies=4), 3)(iteration_generator(6, 2))
    assert not torch.equal(different["image"], batches[2]["image"])
