from collections.abc import Callable

import pytest
import torch
from torch import nn

from common.networks.blocks import (
    CrossAttention,
    Downsample,
    PseudoConv2d,
    ResBlock,
    SliceAttention,
    SliceConv,
    SpatialAttention,
    Upsample,
    norm_groups,
    zero_init,
)

B, S, C, H, W = 2, 5, 64, 4, 6
X = torch.randn(B * S, C, H, W, generator=torch.Generator().manual_seed(0))


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter random values, the zero-initialised ones too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return module.eval()


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 8), (96, 8), (12, 6), (7, 7), (5, 5), (1, 1)]
)
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert norm_groups(channels) == groups


def test_zero_init_clears_all_parameters() -> None:
    assert all(not p.any() for p in zero_init(nn.Conv2d(3, 3, 3)).parameters())


def test_a_residual_block_starts_as_its_skip() -> None:
    emb = torch.randn(len(X), 16)
    torch.testing.assert_close(ResBlock(C, C, 16)(X, emb), X)
    wider = ResBlock(C, 2 * C, 16)
    torch.testing.assert_close(wider(X, emb), wider.skip(X))


def test_a_residual_block_sees_its_embedding_per_slice() -> None:
    block = randomise(ResBlock(C, C, 16))
    emb = torch.randn(len(X), 16)
    other = emb.clone()
    other[3] += 1
    changed = (block(X, emb) - block(X, other)).abs().amax((1, 2, 3)) > 1e-4
    assert changed.tolist() == [i == 3 for i in range(len(X))]


@pytest.mark.parametrize("layer", [SliceConv, SliceAttention])
def test_slice_layers_start_as_identity(layer: type[SliceConv | SliceAttention]) -> None:
    torch.testing.assert_close(layer(C)(X, S), X, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layer", [SliceConv, SliceAttention])
def test_slice_layers_mix_slices_of_a_window_and_nothing_else(
    layer: type[SliceConv | SliceAttention],
) -> None:
    """A change at one pixel of slice 1 of window 0 reaches that pixel of that window only."""
    module = randomise(layer(C))
    torch.manual_seed(0)
    disturbed = X.clone()
    disturbed[1, :, 2, 3] += torch.randn(C)
    moved = (module(X, S) - module(disturbed, S)).abs().amax(1).view(B, S, H, W) > 1e-5
    assert moved[0, [0, 1, 2], 2, 3].all()  # its neighbours saw it
    assert moved[0, 3:, 2, 3].all() == (layer is SliceAttention)  # attention reaches all slices
    moved[0, :, 2, 3] = False
    assert not moved.any()


@pytest.mark.parametrize("layer", [SliceConv, SliceAttention])
@pytest.mark.parametrize("slices", [1, 2, 5, 10])
def test_slice_layers_take_any_number_of_slices(
    layer: type[SliceConv | SliceAttention], slices: int
) -> None:
    assert randomise(layer(C))(X, slices).shape == X.shape


def test_slice_attention_does_not_know_the_order_of_slices() -> None:
    """Order enters by the position embedding alone; reversing a window reverses its output."""
    module = randomise(SliceAttention(C))
    backward = X.view(B, S, C, H, W).flip(1).flatten(0, 1)
    mirrored = module(backward, S).view(B, S, C, H, W).flip(1).flatten(0, 1)
    torch.testing.assert_close(mirrored, module(X, S), atol=1e-5, rtol=1e-5)


def test_spatial_attention_stays_inside_its_slice() -> None:
    torch.testing.assert_close(SpatialAttention(C)(X), X)
    module = randomise(SpatialAttention(C))
    torch.manual_seed(0)
    disturbed = X.clone()
    disturbed[1, :, 0, 0] += torch.randn(C)
    moved = (module(X) - module(disturbed)).abs().amax(1) > 1e-6
    assert moved[1].all()
    moved[1] = False
    assert not moved.any()


def test_spatial_attention_follows_the_pixels_it_is_given() -> None:
    module = randomise(SpatialAttention(C))
    turned = module(X.transpose(2, 3)).transpose(2, 3)
    torch.testing.assert_close(turned, module(X), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "halved"), [((4, 6), (2, 3)), ((5, 7), (3, 4)), ((1, 1), (1, 1))])
def test_down_and_up_sampling_fit_odd_sizes(size: tuple[int, int], halved: tuple[int, int]) -> None:
    small = Downsample(8)(torch.zeros(2, 8, *size))
    assert tuple(small.shape[-2:]) == halved
    assert Upsample(8)(small, torch.Size(size)).shape == (2, 8, *size)


@pytest.mark.parametrize("make", [lambda: SpatialAttention(40), lambda: SliceAttention(40)])
def test_channels_that_no_head_divides_get_one_head(make: Callable[[], SliceAttention]) -> None:
    assert make().heads == 1
    assert SpatialAttention(64, head_channels=32).heads == 2


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pseudo_3d_convolution_starts_as_its_2d_convolution(stride: int) -> None:
    module = PseudoConv2d(C, 8, stride=stride, pseudo3d=True)
    plain = nn.Conv2d(C, 8, 3, stride=stride, padding=1)
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if "along" not in k})
    torch.testing.assert_close(module(X, S), plain(X), atol=1e-6, rtol=0)
    assert PseudoConv2d(C, 8).along is None


def test_a_pseudo_3d_convolution_is_a_separable_3d_convolution() -> None:
    """1D along the slices after 2D in plane: a 3D kernel, the product of both."""
    module = randomise(PseudoConv2d(C, 8, pseudo3d=True))
    plane, line = module.weight, module.along.conv.weight
    kernel = torch.einsum("oms,mihw->oishw", line, plane)
    volume = X.view(B, S, C, H, W).transpose(1, 2)
    expected = nn.functional.conv3d(volume, kernel, padding=1)
    shift = module.along.conv(module.bias[:, None].expand(-1, S)[None])  # (1, 8, S)
    made = module(X, S).view(B, S, 8, H, W).transpose(1, 2)
    torch.testing.assert_close(made, expected + shift[..., None, None], atol=1e-4, rtol=1e-4)


def test_cross_attention_starts_as_identity_and_then_reads_its_own_context() -> None:
    context = torch.randn(len(X), 7, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(CrossAttention(C, 12)(X, context), X)
    module = randomise(CrossAttention(C, 12))
    other = context.clone()
    other[3] += 1
    moved = (module(X, context) - module(X, other)).abs().amax(1) > 1e-6
    assert moved[3].all()
    moved[3] = False
    assert not moved.any()


def test_cross_attention_does_not_know_the_order_of_tokens_or_pixels() -> None:
    context = torch.randn(len(X), 7, 12, generator=torch.Generator().manual_seed(1))
    module = randomise(CrossAttention(C, 12))
    expected = module(X, context)
    torch.testing.assert_close(module(X, context.flip(1)), expected, atol=1e-5, rtol=1e-5)
    turned = module(X.transpose(2, 3), context).transpose(2, 3)
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=1e-5)


def test_cross_attention_is_the_formula() -> None:
    """softmax(q k^T / sqrt(d)) v per head (2112.10752, section 3.3), written out."""
    context = torch.randn(1, 3, 12, generator=torch.Generator().manual_seed(1))
    module = randomise(CrossAttention(C, 12))
    x = X[:1].flatten(2).transpose(1, 2)[0]  # (pixels, C)
    q = module.query(module.norm(x)).view(-1, 2, 32).transpose(0, 1)
    k, v = (m.view(-1, 2, 32).transpose(0, 1) for m in module.key_value(context[0]).chunk(2, -1))
    share = (q @ k.transpose(1, 2) / 32**0.5).softmax(-1)
    read = module.out((share @ v).transpose(0, 1).reshape(-1, C))
    expected = (x + read).T.view(C, H, W)
    torch.testing.assert_close(module(X[:1], context)[0], expected, atol=1e-5, rtol=1e-5)
