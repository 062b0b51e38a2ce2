from typing import Any

import pytest
import torch
from torch import nn

from common.networks.unet import UNet

EMBEDDING = 16


def make(*, slice_layers: bool = False, unshuffle: int = 1, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(
        3,
        2,
        [8, 16, 16],
        EMBEDDING,
        attention_levels=[False, False, True],
        slice_layers=slice_layers,
        unshuffle=unshuffle,
    ).eval()


def randomise(module: nn.Module) -> None:
    """Give every parameter random values, the zero-initialised ones too."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1


@pytest.mark.parametrize("unshuffle", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (10, 14), (6, 22)])
def test_the_output_has_the_size_of_the_input(size: tuple[int, int], unshuffle: int) -> None:
    network = make(unshuffle=unshuffle)
    output = network(torch.randn(4, 3, *size), torch.randn(4, EMBEDDING))
    assert output.shape == (4, 2, *size)
    assert not output.any()  # the last layer starts at zero


@pytest.mark.parametrize("unshuffle", [1, 2])
@pytest.mark.parametrize("slices", [1, 4, 6])
def test_at_the_start_the_volume_network_is_the_slice_network(slices: int, unshuffle: int) -> None:
    plain = make(unshuffle=unshuffle)
    randomise(plain)
    volume = make(slice_layers=True, unshuffle=unshuffle, seed=5)
    missing, unexpected = volume.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(".slice_conv." in key or ".slice_attention." in key for key in missing)
    x, emb = torch.randn(2 * slices, 3, 8, 8), torch.randn(2 * slices, EMBEDDING)
    expected = plain(x, emb)
    assert expected.std() > 1e-3
    torch.testing.assert_close(volume(x, emb, slices), expected, atol=1e-6, rtol=1e-5)


def test_trained_slice_layers_see_the_window_but_no_other_window() -> None:
    network = make(slice_layers=True)
    randomise(network)
    x, emb = torch.randn(8, 3, 8, 8), torch.randn(8, EMBEDDING)
    disturbed = x.clone()
    disturbed[1] += 1
    moved = (network(x, emb, 4) - network(disturbed, emb, 4)).abs().amax((1, 2, 3)) > 1e-5
    assert moved.tolist() == [True] * 4 + [False] * 4


def test_without_slice_layers_slices_are_independent() -> None:
    network = make(unshuffle=2)
    randomise(network)
    x, emb = torch.randn(4, 3, 8, 8), torch.randn(4, EMBEDDING)
    alone = torch.cat([network(x[i : i + 1], emb[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(network(x, emb), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_all_parameters_learn(unshuffle: int) -> None:
    """Every parameter takes part in the output (a layer that is built but not used would not)."""
    network = make(slice_layers=True, unshuffle=unshuffle)
    randomise(network)
    output = network(torch.randn(4, 3, 8, 8), torch.randn(4, EMBEDDING), 4)
    output.square().sum().backward()
    idle = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


# ---- pseudo-3D layers, context, SPADE, control


def pseudo(seed: int = 0, **kw: Any) -> UNet:
    torch.manual_seed(seed)
    levels = [False, False, True]
    return UNet(3, 2, [8, 16, 16], EMBEDDING, attention_levels=levels, **kw).eval()


def test_at_the_start_the_pseudo_3d_network_is_the_slice_network() -> None:
    plain, volume = pseudo(), pseudo(seed=5, pseudo3d=True)
    randomise(plain)
    missing, unexpected = volume.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(".along." in key or ".slice_attention." in key for key in missing)
    x, emb = torch.randn(10, 3, 8, 8), torch.randn(10, EMBEDDING)
    torch.testing.assert_close(volume(x, emb, 5), plain(x, emb), atol=1e-6, rtol=1e-5)


def test_a_context_is_read_per_slice() -> None:
    network = pseudo(context_channels=6)
    randomise(network)
    x, emb, context = torch.randn(4, 3, 8, 8), torch.randn(4, EMBEDDING), torch.randn(4, 5, 6)
    other = context.clone()
    other[2] += 1
    moved = network(x, emb, 1, context) - network(x, emb, 1, other)
    assert (moved.abs().amax((1, 2, 3)) > 1e-6).tolist() == [False, False, True, False]


def test_masks_of_spade_are_taken_at_every_size() -> None:
    network = pseudo(mask_channels=2, mask_hidden=8)
    randomise(network)
    x, emb, mask = torch.randn(2, 3, 10, 14), torch.randn(2, EMBEDDING), torch.rand(2, 2, 10, 14)
    other = mask.clone()
    other[1, 0, 3, 4] += 1
    made = network(x, emb, 1, None, mask)
    assert made.shape == (2, 2, 10, 14)
    moved = (made - network(x, emb, 1, None, other)).abs()
    assert (moved.amax((1, 2, 3)) > 1e-6).tolist() == [False, True]


def test_control_is_added_to_skips_and_middle() -> None:
    network = pseudo()
    randomise(network)
    x, emb = torch.randn(2, 3, 8, 8), torch.randn(2, EMBEDDING)
    found = network.encode(x, emb)
    assert [part.shape[1] for part in found] == [*network.skip_channels, 16]
    silent = [torch.zeros_like(part) for part in found]
    torch.testing.assert_close(network(x, emb, control=silent), network(x, emb))
    for index in range(len(found)):
        control = list(silent)
        control[index] = torch.randn_like(found[index])  # a norm removes what is constant
        assert not torch.allclose(network(x, emb, control=control), network(x, emb)), index
