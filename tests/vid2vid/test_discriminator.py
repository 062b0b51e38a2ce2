from __future__ import annotations

import pytest
import torch

from vid2vid.discriminator import Discriminators, MultiScaleDiscriminator, stacks


def test_stacks_hold_slices_at_their_stride() -> None:
    number = torch.arange(7.0)[None, :, None, None, None].expand(2, 7, 1, 2, 2)
    found = stacks(number, frames=3, stride=2)
    assert found.shape == (2 * 3, 3, 2, 2)
    assert found[:3, :, 0, 0].tolist() == [[0, 2, 4], [1, 3, 5], [2, 4, 6]]


def test_stacks_keep_the_channels_of_a_slice_together() -> None:
    x = torch.arange(6.0).view(1, 3, 2, 1, 1)
    assert stacks(x, frames=2, stride=1).flatten().tolist() == [0, 1, 2, 3, 2, 3, 4, 5]


@pytest.mark.parametrize(("slices", "names"), [(2, {"image"}), (4, {"image", "video1"}), (5, {"image", "video1", "video2"})])
def test_a_video_discriminator_needs_a_long_enough_sequence(slices: int, names: set[str]) -> None:
    judges = Discriminators(6, channels=4)
    judged = judges(torch.zeros(2, slices, 1, 40, 40), torch.zeros(2, slices, 40, 40, dtype=torch.uint8))
    assert set(judged) == names
    assert len(judged["image"]) == 2


def test_labels_and_neighbours_are_judged() -> None:
    torch.manual_seed(0)
    judges = Discriminators(6, channels=4, image_channels=3)
    image = torch.randn(1, 4, 3, 40, 40)
    label = torch.zeros(1, 4, 40, 40, dtype=torch.uint8)
    base = judges(image, label)
    relabelled = judges(image, label + 1)
    reordered = judges(image.flip(1), label)
    assert not torch.allclose(base["image"][0][-1], relabelled["image"][0][-1])
    assert not torch.allclose(base["video1"][0][-1].sum(0), reordered["video1"][0][-1].sum(0))


@pytest.mark.parametrize("spectral", [True, False])
def test_the_second_scale_sees_half_the_size(spectral: bool) -> None:
    net = MultiScaleDiscriminator(2, channels=4, num_scales=2, num_layers=2, spectral=spectral)
    fine, coarse = net(torch.randn(2, 2, 40, 40))
    assert fine[0].shape[-1] == 20
    assert coarse[0].shape[-1] == 10
    assert len(fine) == 4  # three layers of features, then the logits
