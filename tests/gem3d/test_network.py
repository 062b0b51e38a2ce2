"""B windows, S slices per window, C latent channels, M mask channels, h, w latent size."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.engines.weights import save_weights
from common.errors import MedpairError
from common.networks.blocks import PseudoConv2d, SliceAttention, SliceConv, SpatialAttention
from common.networks.spade import Spade
from gem3d.model import on_latents, trainable, volumetric_start
from gem3d.network import (
    WAYS,
    PatchTokens,
    StyleEmbedding,
    VolumeDenoiser,
    slice_layer_parameters,
)

B, H, W = 2, 6, 5
MASKS = 3
INJECTIONS = list(product(WAYS["mask"], WAYS["informed"]))
KEYS = ("x", "timesteps", "mask", "informed", "offset", "position")


def inputs(slices: int, channels: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    informed = torch.randn(B, channels + 1, H, W, generator=g)
    informed[:, -1] = 1
    return {
        "x": torch.randn(B, slices, channels, H, W, generator=g),
        "timesteps": torch.randint(1000, (B, slices), generator=g),
        "mask": torch.rand(B, slices, MASKS, H, W, generator=g),
        "informed": informed,
        "offset": (torch.arange(slices) - torch.randint(slices, (B, 1), generator=g)).float(),
        "position": torch.rand(B, slices, generator=g),
    }


def call(network: nn.Module, given: dict[str, Tensor], **changes: Tensor) -> Tensor:
    values = given | changes
    made: Tensor = network(*(values[key] for key in KEYS))
    return made


def pair(make: Any, **kw: Any) -> tuple[VolumeDenoiser, VolumeDenoiser]:
    """A slice network with random weights and the volume network that starts from it."""
    plain = make.randomise(make.denoiser(MASKS, volumetric=False, **kw))
    volume = make.denoiser(MASKS, volumetric=True, **kw)
    lacking, unexpected = volume.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert lacking
    return plain, volume


# ---- memory


@pytest.mark.parametrize(("mask", "informed"), INJECTIONS)
def test_checkpointing_changes_no_gradient_and_keeps_less(
    mask: str, informed: str, make: Any
) -> None:
    words = {"mask_injection": mask, "informed_injection": informed, "volumetric": True}
    kept, found = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = make.denoiser(MASKS, checkpointing=checkpointing, **words)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            loss = call(network, inputs(4, make.channels)).square().mean()
        loss.backward()
        kept.append(sum(sizes))
        found.append({k: p.grad for k, p in network.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)
    assert kept[1] < kept[0] / 3


# ---- stage 2 starts as stage 1


@pytest.mark.parametrize(("mask", "informed"), INJECTIONS)
@torch.no_grad()
def test_at_the_start_the_volume_network_is_the_slice_network(
    mask: str, informed: str, make: Any
) -> None:
    plain, volume = pair(make, mask_injection=mask, informed_injection=informed, known_channel=True)
    for slices in (2, 5, 16):
        given = inputs(slices, make.channels)
        expected = call(plain, given)
        assert expected.std() > 1e-2
        torch.testing.assert_close(call(volume, given), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("mask", "informed"), INJECTIONS)
def test_every_convolution_and_attention_has_its_partner_along_the_slices(
    mask: str, informed: str, make: Any
) -> None:
    network = make.denoiser(MASKS, mask_injection=mask, informed_injection=informed)
    of_conditions = {
        id(layer)
        for owner in network.modules()
        if isinstance(owner, Spade | PatchTokens | StyleEmbedding)
        for layer in owner.modules()
    }
    convolutions = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (3, 3)
        and id(layer) not in of_conditions
    ]
    assert all(isinstance(layer, PseudoConv2d) and layer.along for layer in convolutions)
    counts = {
        kind: sum(isinstance(layer, kind) for layer in network.modules())
        for kind in (SliceConv, SpatialAttention, SliceAttention)
    }
    assert counts[SliceConv] == len(convolutions) > 10
    assert counts[SliceAttention] == counts[SpatialAttention] > 2
    assert not list(slice_layer_parameters(make.denoiser(MASKS, volumetric=False)))


@torch.no_grad()
def test_without_layers_along_the_slices_each_slice_is_on_its_own(make: Any) -> None:
    plain, volume = pair(make)
    given = inputs(5, make.channels)
    other = given["x"].clone()
    other[0, 2] += 1
    alone, all_of_window = [i == 2 for i in range(5)], [True] * 5
    trained = make.randomise(make.denoiser(MASKS))
    for network, reached in ((plain, alone), (volume, alone), (trained, all_of_window)):
        moved = (call(network, given) - call(network, given, x=other)).abs().amax((2, 3, 4)) > 1e-5
        assert moved.tolist() == [reached, [False] * 5]


@pytest.fixture(scope="module")
def slice_weights(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a slice network on the latents of `make.autoencoder`."""
    network = make.randomise(make.denoiser(MASKS, volumetric=False))
    on_latents(network, make.autoencoder(), "cpu")
    path = tmp_path_factory.mktemp("slice") / "model.pt"
    save_weights(network, path, {"schema": "brain4", "preset": "tiny"})
    return path


def start(make: Any, path: Path, **kw: Any) -> VolumeDenoiser:
    network = make.denoiser(MASKS)
    return volumetric_start(network, str(path), "brain4", "tiny", make.autoencoder(), **kw)


def test_tuning_changes_the_layers_along_the_slices_and_no_other_weight(
    make: Any, slice_weights: Path
) -> None:
    network = start(make, slice_weights)
    assert network.training
    before = {key: value.clone() for key, value in network.state_dict().items()}
    wanted = {id(p) for p in slice_layer_parameters(network)}
    assert {id(p) for p in trainable(network)} == wanted
    given = inputs(5, make.channels)
    optimizer = torch.optim.AdamW(trainable(network), lr=0.1, weight_decay=0.1)
    for _ in range(2):  # the attention's queries get gradients once its output is not zero
        optimizer.zero_grad()
        (call(network, given) - given["x"]).square().mean().backward()
        optimizer.step()
    learning = {id(p) for p in network.parameters() if p.grad is not None and p.grad.any()}
    assert learning == wanted
    changed = {k for k, value in network.state_dict().items() if not torch.equal(value, before[k])}
    assert changed == {k for k, p in network.named_parameters() if id(p) in wanted}
    other = given["x"].clone()
    other[0, 0] += 1
    with torch.no_grad():
        moved = (call(network, given) - call(network, given, x=other)).abs().amax((2, 3, 4))
    assert (moved[0] > 1e-5).all()
    assert not moved[1].any()


def test_tuning_everything_trains_everything(make: Any, slice_weights: Path) -> None:
    network = start(make, slice_weights, tune="all")
    assert len(trainable(network)) == len(list(network.parameters()))


def test_the_volume_network_has_the_weights_of_the_slice_network(
    make: Any, slice_weights: Path
) -> None:
    state = start(make, slice_weights).state_dict()
    for key, value in torch.load(slice_weights, weights_only=True).items():
        assert torch.equal(state[key], value.float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": "slices"}, r"tune: 'slices'; want one of slice_layers, all"),
        ({"path": Path("/no/model.pt")}, r"run train_slice\.yaml with the same output_dir first"),
    ],
)
def test_a_start_that_cannot_be_says_so(
    changes: dict[str, Any], message: str, make: Any, slice_weights: Path
) -> None:
    with pytest.raises(MedpairError, match=message):
        start(make, **({"path": slice_weights} | changes))


def test_slice_weights_of_another_latent_scale_are_refused_before_training(
    make: Any, slice_weights: Path
) -> None:
    autoencoder = make.autoencoder()
    autoencoder.latent_std.mul_(1.5)
    with pytest.raises(MedpairError, match=r"latent scale \[.*use the autoencoder of the same tr"):
        volumetric_start(make.denoiser(MASKS), str(slice_weights), "brain4", "tiny", autoencoder)


# ---- what the network sees


@pytest.mark.parametrize(("mask", "informed"), INJECTIONS)
@torch.no_grad()
def test_every_way_of_injection_reaches_the_output(mask: str, informed: str, make: Any) -> None:
    network = make.randomise(make.denoiser(MASKS, mask_injection=mask, informed_injection=informed))
    given, other = inputs(3, make.channels), inputs(3, make.channels, seed=1)
    base = call(network, given)
    for key in KEYS:
        changed = other[key]
        if key == "informed":
            changed = torch.cat([changed[:, :-1], given[key][:, -1:]], dim=1)
        moved = bool((call(network, given, **{key: changed}) - base).abs().max() > 1e-5)
        blind = informed == "none" and key in ("informed", "offset")
        assert moved is not blind, key


@torch.no_grad()
def test_make_a_volume_does_not_even_know_that_there_is_an_informed_slice(make: Any) -> None:
    network = make.randomise(make.denoiser(MASKS, informed_injection="none"))
    given = inputs(3, make.channels)
    nothing = torch.zeros_like(given["informed"])
    assert torch.equal(call(network, given), call(network, given, informed=nothing))


@torch.no_grad()
def test_the_offset_says_nothing_without_an_informed_slice(make: Any) -> None:
    network = make.randomise(make.denoiser(MASKS))
    given = inputs(3, make.channels) | {"informed": torch.zeros(B, make.channels + 1, H, W)}
    base = call(network, given)
    assert torch.equal(call(network, given, offset=given["offset"] + 7), base)
    only = inputs(3, make.channels)["informed"]
    only[1] = 0
    base = call(network, given, informed=only)
    moved = (call(network, given, informed=only, offset=given["offset"] + 7) - base).abs()
    assert (moved.amax((1, 2, 3, 4)) > 1e-5).tolist() == [True, False]


@pytest.mark.parametrize("key", ["offset", "position"])
@torch.no_grad()
def test_an_embedding_that_is_switched_off_has_no_effect(key: str, make: Any) -> None:
    network = make.randomise(make.denoiser(MASKS, **{key: False}))
    given = inputs(3, make.channels)
    changed = call(network, given, **{key: given[key] + 0.3})
    assert torch.equal(call(network, given), changed)


@torch.no_grad()
def test_the_offset_tells_before_from_behind(make: Any) -> None:
    network = make.randomise(make.denoiser(MASKS))
    given = inputs(3, make.channels)
    before, behind = (torch.full_like(given["offset"], sign * 4.0) for sign in (-1, 1))
    gap = call(network, given, offset=before) - call(network, given, offset=behind)
    assert gap.abs().max() > 1e-4


@torch.no_grad()
def test_one_time_step_per_window_is_the_same_for_all_its_slices(make: Any) -> None:
    network = make.randomise(make.denoiser(MASKS))
    given = inputs(4, make.channels)
    t = torch.tensor([3, 700])
    torch.testing.assert_close(
        call(network, given, timesteps=t), call(network, given, timesteps=t[:, None].repeat(1, 4))
    )


@torch.no_grad()
def test_the_known_channel_marks_slices(make: Any) -> None:
    network = make.randomise(make.denoiser(MASKS, known_channel=True, volumetric=False))
    given = inputs(4, make.channels)
    values = [given[key] for key in KEYS]
    none = torch.zeros(B, 4, dtype=torch.bool)
    known = none.clone()
    known[1, 2] = True
    assert torch.equal(network(*values), network(*values, none))
    moved = (network(*values, known) - network(*values)).abs().amax((2, 3, 4)) > 1e-5
    assert moved.nonzero().tolist() == [[1, 2]]


@torch.no_grad()
def test_a_control_branch_starts_silent(make: Any) -> None:
    network = make.denoiser(MASKS, mask_injection="controlnet", informed_injection="controlnet")
    given = inputs(3, make.channels)
    flat = given["x"].flatten(0, 1)
    maps = [given["mask"].flatten(0, 1), given["informed"].repeat_interleave(3, 0)]
    found = network.control(torch.cat([flat, *maps], 1), torch.randn(6, 16), 3)
    assert len(found) == len(network.unet.skip_channels) + 1
    assert not any(part.any() for part in found)


@torch.no_grad()
def test_tokens_of_the_informed_slice_know_their_place(make: Any) -> None:
    tokens = make.randomise(PatchTokens(make.channels + 1, 16))
    made = tokens(torch.ones(1, make.channels + 1, 8, 8))
    assert made.shape == (1, 16, 16)
    assert (made[0, 5] - made[0, 6]).abs().max() > 1e-4  # of equal patches inside the slice


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"mask_injection": "clip"}, r"mask_injection: 'clip'; want one of concat, controlnet, sp"),
        ({"mask_injection": "none"}, r"mask_injection: 'none'"),
        ({"informed_injection": "spade"}, r"informed_injection: 'spade'; want one of concat, cont"),
    ],
)
def test_unknown_ways_of_injection_are_refused(
    way: dict[str, str], message: str, make: Any
) -> None:
    with pytest.raises(MedpairError, match=message):
        make.denoiser(MASKS, **way)


def test_all_parameters_learn(make: Any) -> None:
    for mask, informed in [("concat", "concat"), ("spade", "cross_attention"), ("controlnet",) * 2]:
        network = make.randomise(
            make.denoiser(MASKS, mask_injection=mask, informed_injection=informed)
        )
        call(network, inputs(3, make.channels)).square().sum().backward()
        idle = [k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert idle == []


def test_the_style_of_the_informed_slice_reaches_every_slice(make: Any) -> None:
    """Pooled over the plane: where the informed slice shows something does not matter to it."""
    network = make.randomise(StyleEmbedding(make.channels + 1, 8, 12))
    informed = torch.zeros(2, make.channels + 1, 12, 12)  # shown in the middle, far from the rim
    informed[:, :, 4:8, 4:8] = torch.linspace(-2, 2, 4)[:, None] + torch.linspace(-1, 1, 4)
    shifted, brighter = informed.roll(1, dims=-1), 1.5 * informed
    torch.testing.assert_close(network(shifted), network(informed), atol=1e-5, rtol=0)
    assert (network(brighter) - network(informed)).abs().max() > 1e-2
