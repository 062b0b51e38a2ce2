from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import MedpairError
from common.networks.spade import Spade
from sdm.network import SemanticDenoiser
from sdm.views import VIEWS, ViewDenoisers

Make = Callable[..., ViewDenoisers]


def inputs(channels: int = 1, n: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, 8, 12, generator=generator)
    t = torch.tensor([0.0, 10.0, 999.0])[:n]
    label = torch.randint(6, (n, 1, 8, 12), generator=generator)
    return x, t, label, torch.rand(n, 2, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("views", ["separate", "shared"])
def test_any_number_of_image_channels(make_network: Make, channels: int, views: str) -> None:
    network = make_network(views=views, image_channels=channels)
    x, t, label, position = inputs(channels)
    for view in VIEWS:
        assert network(x, t, network.one_hot(label), position, view).shape == x.shape


def test_learned_sigma_adds_as_many_channels_as_the_image_has(make_network: Make) -> None:
    network = make_network(image_channels=3, learned_sigma=True)
    x, t, label, position = inputs(3)
    assert network(x, t, network.one_hot(label), position, "axial").shape == (3, 6, 8, 12)


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_kept_modulations_give_the_same_bits(make_network: Make, unshuffle: int) -> None:
    network = make_network(unshuffle=unshuffle)
    x, t, label, position = inputs()
    mask = network.one_hot(label)
    maps = network.modulations(mask, "axial")
    for step in range(3):
        direct = network(x, t + step, mask, position, "axial")
        kept = network.denoise(x, t + step, maps, position, "axial")
        assert torch.equal(direct, kept)


def test_modulations_come_from_the_mask_alone_and_reach_the_output(make_network: Make) -> None:
    network = make_network()
    x, t, label, position = inputs()
    other = network.one_hot((label + 1) % 6)
    assert not torch.equal(
        network(x, t, other, position, "axial"),
        network(x, t, network.one_hot(label), position, "axial"),
    )


def test_the_encoder_does_not_see_the_mask() -> None:
    network = SemanticDenoiser(6, channels=(8, 16), embedding=8, mask_hidden=8)
    with_mask = {n for n, m in network.named_modules() if isinstance(m, Spade)}
    assert with_mask
    assert all(name.startswith(("middle.", "up.")) for name in with_mask)
    blocks = {name.rsplit(".norm_", 1)[0] for name in with_mask}
    residual = {n for n, m in network.named_modules() if n.endswith(".res") and "down" not in n}
    assert blocks == residual, "SPADE in every block of the middle and of the decoder"


def test_shared_weights_are_a_third_and_tell_the_views_apart(make_network: Make) -> None:
    def size(network: ViewDenoisers) -> int:
        return sum(p.numel() for p in network.parameters())

    shared, separate = make_network(views="shared"), make_network(views="separate")
    embedding = 3 * 8
    assert size(separate) == 3 * (size(shared) - embedding)
    x, t, label, position = inputs()
    mask = shared.one_hot(label)
    found = [shared(x, t, mask, position, view) for view in VIEWS]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_spade_normalises_then_scales_and_shifts() -> None:
    norm = Spade(4, 3, hidden=8, groups=2)
    x = torch.randn(2, 4, 6, 6) * 5 + 3
    mask = torch.rand(2, 3, 6, 6)
    gamma, beta = norm.maps(torch.relu(norm.shared(mask))).chunk(2, dim=1)
    groups = x.view(2, 2, -1)
    mean, variance = groups.mean(-1, keepdim=True), groups.var(-1, correction=0, keepdim=True)
    normal = ((groups - mean) / (variance + 1e-5).sqrt()).view_as(x)
    torch.testing.assert_close(
        norm(x, norm.modulation(mask)), normal * (1 + gamma) + beta, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": "both"}, "views is 'both'"),
        ({"attention_levels": [True]}, "attention_levels has 1 entries; want 2"),
    ],
)
def test_wrong_options(make_network: Make, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(MedpairError, match=words):
        make_network(**changes)


def test_an_unknown_view(make_network: Make) -> None:
    network = make_network()
    x, t, label, position = inputs()
    with pytest.raises(MedpairError, match="view 'oblique' is unknown; want one of axial"):
        network(x, t, network.one_hot(label), position, "oblique")
