from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from common.errors import MedpairError
from vid2vid.generator import SliceGenerator

Make = Callable[..., SliceGenerator]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(network: SliceGenerator, batch: int = 3, size: tuple[int, int] = (12, 8)) -> Inputs:
    torch.manual_seed(1)
    window = network.past_labels + 1 + network.ahead_labels
    label = torch.randint(network.num_classes, (batch, window, *size), dtype=torch.uint8)
    past = torch.rand(batch, network.past_images, network.image_channels, *size) * 2 - 1
    return (
        label,
        past,
        torch.ones(batch, network.past_images, dtype=torch.bool),
        torch.rand(batch, 2),
    )


def set_motion(network: SliceGenerator, weight: float) -> None:
    """Make the motion head say zero flow and a constant weight (before the sigmoid)."""
    conv = network.motion_head.conv
    area = network.unshuffle**2
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.copy_(torch.tensor([0.0, 0.0, weight]).repeat_interleave(area))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(12, 8), (11, 9)])
def test_shapes_and_ranges(make_generator: Make, channels: int, size: tuple[int, int]) -> None:
    network = make_generator(image_channels=channels)
    out = network(*inputs(network, size=size))
    assert out.image.shape == out.raw.shape == (3, channels, *size)
    assert out.flow.shape == (3, 2, *size)
    assert out.weight.shape == (3, 1, *size)
    assert out.raw.abs().max() <= 1
    assert out.flow.abs().max() <= network.max_flow
    assert (out.weight.min() >= 0) & (out.weight.max() <= 1)
    assert out.image.dtype == torch.float32


@pytest.mark.parametrize("channels", [1, 3])
def test_weight_one_is_texture_only(make_generator: Make, channels: int) -> None:
    network = make_generator(image_channels=channels)
    set_motion(network, weight=1e4)
    out = network(*inputs(network))
    assert torch.equal(out.image, out.raw)


@pytest.mark.parametrize("channels", [1, 3])
def test_weight_zero_and_zero_flow_is_the_slice_before(make_generator: Make, channels: int) -> None:
    network = make_generator(image_channels=channels)
    set_motion(network, weight=-1e4)
    label, past, has, position = inputs(network)
    out = network(label, past, has, position)
    assert torch.allclose(out.image, past[:, 0], atol=1e-5)


def test_the_first_slice_depends_on_labels_alone(make_generator: Make) -> None:
    network = make_generator()
    label, past, has, position = inputs(network)
    none = torch.zeros_like(has)
    first = network(label, past, none, position)
    other = network(label, -past, none, position)
    assert torch.equal(first.image, other.image)
    assert torch.equal(first.image, first.raw)
    assert not torch.equal(network(label, past, has, position).raw, first.raw)


def test_a_missing_second_image_is_not_read(make_generator: Make) -> None:
    network = make_generator()
    label, past, has, position = inputs(network)
    has[:, 1] = False
    changed = past.clone()
    changed[:, 1] += 1
    assert torch.equal(
        network(label, past, has, position).image, network(label, changed, has, position).image
    )


def test_samples_of_a_batch_do_not_meet(make_generator: Make) -> None:
    network = make_generator()
    label, past, has, position = inputs(network)
    has[1] = False
    together = network(label, past, has, position).image
    for k in range(3):
        alone = network(
            label[k : k + 1], past[k : k + 1], has[k : k + 1], position[k : k + 1]
        ).image
        assert torch.allclose(together[k : k + 1], alone, atol=1e-5)


def test_position_and_style_are_read_only_where_they_are_on(make_generator: Make) -> None:
    for position_on, style in ((True, None), (False, "medians")):
        network = make_generator(position=position_on, style=style)
        label, past, has, position = inputs(network)
        code = torch.rand(3, network.num_classes)
        base = network(label, past, has, position, code).image
        moved = network(label, past, has, position + 0.1, code).image
        styled = network(label, past, has, position, code + 0.5).image
        assert torch.equal(base, moved) != position_on
        assert torch.equal(base, styled) == (style is None)


def test_no_style_given_means_the_mean_of_the_training(make_generator: Make) -> None:
    network = make_generator(style="medians")
    network.style_mean.fill_(0.3)
    args = inputs(network)
    same = network(*args, torch.full((3, network.num_classes), 0.3)).image
    assert torch.equal(network(*args).image, same)


def test_the_default_has_at_most_three_million_parameters() -> None:
    assert sum(p.numel() for p in SliceGenerator(6, channels=(64, 64, 128)).parameters()) <= 3e6


def test_wrong_inputs_are_named(make_generator: Make) -> None:
    network = make_generator()
    label, past, has, position = inputs(network)
    with pytest.raises(MedpairError, match="label window has 4 slices; want 5"):
        network(label[:, 1:], past, has, position)
    with pytest.raises(MedpairError, match=r"past images .*\(2, 3\); want \(2, 1\)"):
        network(label, past.expand(-1, -1, 3, -1, -1), has, position)
    with pytest.raises(MedpairError, match="style is 'mean'"):
        make_generator(style="mean")
    with pytest.raises(MedpairError, match="channels is"):
        make_generator(channels=(8,))
