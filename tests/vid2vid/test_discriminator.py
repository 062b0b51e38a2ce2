from __future__ import annotations

import pytest
import torch

from common.errors import MedpairError
from vid2vid.discriminator import Discriminators, MultiScaleDiscriminator, details, stacks


def test_stacks_hold_slices_at_their_stride() -> None:
    number = torch.arange(7.0)[None, :, None, None, None].expand(2, 7, 1, 2, 2)
    found = stacks(number, frames=3, stride=2)
    assert found.shape == (2 * 3, 3, 2, 2)
    assert found[:3, :, 0, 0].tolist() == [[0, 2, 4], [1, 3, 5], [2, 4, 6]]


def test_stacks_keep_the_channels_of_a_slice_together() -> None:
    x = torch.arange(6.0).view(1, 3, 2, 1, 1)
    assert stacks(x, frames=2, stride=1).flatten().tolist() == [0, 1, 2, 3, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("slices", "names"),
    [(2, {"image"}), (4, {"image", "video1"}), (5, {"image", "video1", "video2"})],
)
def test_a_video_discriminator_needs_a_long_enough_sequence(slices: int, names: set[str]) -> None:
    judges = Discriminators(6, channels=4)
    judged = judges(
        torch.zeros(2, slices, 1, 40, 40), torch.zeros(2, slices, 40, 40, dtype=torch.uint8)
    )
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


@pytest.mark.parametrize("norm", ["none", "spectral", "instance"])
def test_the_second_scale_sees_half_the_size(norm: str) -> None:
    net = MultiScaleDiscriminator(2, channels=4, num_scales=2, num_layers=2, norm=norm)
    fine, coarse = net(torch.randn(2, 2, 40, 40))
    assert fine[0].shape[-1] == 20
    assert coarse[0].shape[-1] == 10
    assert len(fine) == 4  # three layers of features, then the logits


def test_blur_is_told_from_sharp_images_within_few_steps() -> None:
    """What the extra detail input is for: without it this takes far longer."""
    torch.manual_seed(0)
    judge = Discriminators(6, channels=8, strides=())
    optimizer = torch.optim.Adam(judge.parameters(), 2e-3)
    label = torch.zeros(4, 1, 24, 24, dtype=torch.uint8)
    for _ in range(40):
        sharp = torch.randn(4, 1, 1, 24, 24) * 0.1
        soft = torch.nn.functional.avg_pool2d(sharp[:, 0], 3, 1, 1)[:, None] * 2
        real, fake = judge(sharp, label)["image"], judge(soft, label)["image"]
        loss = sum(
            (r[-1] - 1).square().mean() + f[-1].square().mean()
            for r, f in zip(real, fake, strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert real[0][-1].mean() > fake[0][-1].mean() + 0.3


def test_details_vanish_on_flat_images() -> None:
    assert details(torch.full((1, 2, 1, 8, 8), 0.7)).abs().max() < 1e-6
    dot = torch.zeros(1, 1, 1, 5, 5)
    dot[..., 2, 2] = 9
    assert details(dot)[0, 0, 0, 2, 2] == 8


def test_an_unknown_norm_is_named() -> None:
    with pytest.raises(MedpairError, match="d_norm is 'batch'"):
        MultiScaleDiscriminator(2, norm="batch")
