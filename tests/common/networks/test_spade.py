"""N slices, C channels, M mask channels, E embedding width, H height, W width."""

import pytest
import torch
from torch import nn

from common.networks.spade import Spade, SpadeResBlock

N, C, M, E, H, W = 6, 8, 3, 16, 5, 4
G = torch.Generator().manual_seed(0)
X, EMB = torch.randn(N, C, H, W, generator=G), torch.randn(N, E, generator=G)
MASK = torch.rand(N, M, H, W, generator=G)


def randomise(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return module.eval()


def test_the_mask_scales_and_shifts_the_normalised_features() -> None:
    module = randomise(Spade(C, M, 7))
    modulation = module.modulation(MASK)
    gamma, beta = module.maps(torch.relu(module.shared(MASK))).chunk(2, 1)
    normalised = nn.functional.group_norm(X, 4)
    torch.testing.assert_close(module(X, modulation), normalised * (1 + gamma) + beta)
    assert not list(module.norm.parameters())  # the mask alone says the scale


def test_without_a_mask_branch_it_is_group_normalisation() -> None:
    module = Spade(C, M, 7)
    for parameter in module.maps.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(module(X, module.modulation(MASK)), nn.functional.group_norm(X, 4))


@pytest.mark.parametrize("wide", [C, 12])
def test_a_block_starts_as_its_skip(wide: int) -> None:
    block = SpadeResBlock(C, wide, E, M, 7)
    torch.testing.assert_close(block(X, EMB, *block.modulations(MASK)), block.skip(X))


def test_pseudo_3d_layers_start_as_identity_and_then_mix_windows() -> None:
    plain = randomise(SpadeResBlock(C, C, E, M, 7))
    block = SpadeResBlock(C, C, E, M, 7, pseudo3d=True)
    missing, unexpected = block.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(".along." in key for key in missing)
    modulations = plain.modulations(MASK)
    expected = plain(X, EMB, *modulations)
    torch.testing.assert_close(block(X, EMB, *modulations, 3), expected, atol=1e-6, rtol=0)
    randomise(block)
    other = X.clone()
    other[1] += torch.randn(C, H, W, generator=torch.Generator().manual_seed(2))
    modulations = block.modulations(MASK)
    moved = block(X, EMB, *modulations, 3) - block(other, EMB, *modulations, 3)
    assert (moved.abs().amax((1, 2, 3)) > 1e-5).tolist() == [True] * 3 + [False] * 3


def test_the_time_and_the_mask_reach_their_own_slice() -> None:
    block = randomise(SpadeResBlock(C, C, E, M, 7))
    first, second = block.modulations(MASK)
    base = block(X, EMB, first, second)
    late, other = EMB.clone(), MASK.clone()
    late[2] += 1
    other[4] += 1
    for made, index in (
        (block(X, late, first, second), 2),
        (block(X, EMB, *block.modulations(other)), 4),
    ):
        moved = (made - base).abs().amax((1, 2, 3)) > 1e-6
        assert moved.nonzero().flatten().tolist() == [index]
