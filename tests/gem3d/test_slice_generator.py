"""N slices, C latent channels, h, w latent size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from common.diffusion.schedules import build_schedule, to_x0_eps
from common.engines.batches import IterationBatches
from common.networks.blocks import CrossAttention
from gem3d.slice_generator import LatentSliceBatches, PrepareLatentSlices, draw_slices
from gem3d.windows import LatentVolumes

SIZE = (3, 5)


def noise(count: int, channels: int) -> Tensor:
    return torch.randn(count, channels, *SIZE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_position_comes_in_through_cross_attention_only(make: Any) -> None:
    network = make.slice_generator()
    x, t = noise(3, make.channels), torch.tensor([1, 500, 999])
    here, there = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.1, 0.5, 0.95])
    moved = (network(x, t, here) - network(x, t, there)).abs().amax((1, 2, 3)) > 1e-5
    assert moved.tolist() == [False, False, True]
    crossing = [m for m in network.modules() if isinstance(m, CrossAttention)]
    assert len(crossing) == 7  # every level of both paths and the middle
    for layer in crossing:
        layer.out.weight.zero_()
        layer.out.bias.zero_()
    assert torch.equal(network(x, t, here), network(x, t, there))
    assert not torch.equal(network(x, t, here), network(x, t.flip(0), here))


@torch.no_grad()
def test_positions_at_the_ends_are_told_apart(make: Any) -> None:
    network = make.slice_generator()
    x = noise(1, make.channels).expand(4, -1, -1, -1)
    made = network(x, torch.full((4,), 500), torch.tensor([0.0, 0.02, 0.98, 1.0]))
    gaps = [(made[i] - made[j]).abs().max() for i in range(4) for j in range(i)]
    assert min(gaps) > 1e-6


def draw(network: Any, volumes: list[int], schedule: Any, **kw: Any) -> Tensor:
    settings: dict[str, Any] = {"seed": 5, "num_steps": 3, "precision": "fp32"}
    settings |= {"schedule": schedule, "prediction": "v", "volumes": volumes}
    position = kw.pop("position", torch.linspace(0.2, 0.8, 9)[volumes])
    return draw_slices(network, position, SIZE, **(settings | kw))


def test_noise_is_keyed_by_seed_volume_and_attempt(make: Any) -> None:
    network = make.slice_generator()
    made = draw(network, [0, 3, 4], make.schedule)
    assert made.shape == (3, make.channels, *SIZE)
    torch.testing.assert_close(draw(network, [3], make.schedule), made[1:2], atol=1e-5, rtol=1e-5)
    back = draw(network, [4, 0], make.schedule)
    torch.testing.assert_close(back, made[[2, 0]], atol=1e-5, rtol=1e-5)
    middle = torch.tensor([0.5])
    one = draw(network, [0], make.schedule, position=middle)
    for volume, changed in ((0, {"seed": 6}), (0, {"attempt": 1}), (1, {})):
        other = draw(network, [volume], make.schedule, position=middle, **changed)
        assert (other - one).abs().max() > 1e-2


class Exact(torch.nn.Module):
    """Knows that the slice at position p is p everywhere."""

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule, self.latent_channels = schedule, 2
        self.register_buffer("latent_std", torch.ones(2))

    def forward(self, x: Tensor, t: Tensor, position: Tensor) -> Tensor:
        alpha, sigma = (a[:, None, None, None].float() for a in self.schedule.alpha_sigma(t.long()))
        x_0 = position[:, None, None, None].expand_as(x)
        return alpha * (x - alpha * x_0) / sigma - sigma * x_0


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp_2m", "ddpm"])
def test_a_perfect_network_draws_the_slice_of_the_position(sampler: str) -> None:
    schedule = build_schedule("scaled_linear", 1000)
    made = draw(Exact(schedule), [0, 8], schedule, sampler=sampler)
    expected = torch.tensor([0.2, 0.8])[:, None, None, None].expand(2, 2, *SIZE)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_target_leads_back_to_the_clean_latents(prediction: Any, make: Any) -> None:
    batches = IterationBatches(
        LatentSliceBatches(LatentVolumes(make.volumes(), make.autoencoder()), 6), 3, 10
    )
    batch = next(iter(batches))
    prepare = PrepareLatentSlices(make.schedule, prediction)
    x_t, target, (t, position), keywords = prepare(batch, "cpu", False)
    assert keywords == {}
    alpha, sigma = (a[:, None, None, None].float() for a in make.schedule.alpha_sigma(t.long()))
    x_0, eps = to_x0_eps(target, x_t, alpha, sigma, prediction)
    torch.testing.assert_close(x_0, batch["latent"], atol=1e-3, rtol=1e-3)
    assert 0.8 < float(eps.std()) < 1.2
    assert torch.equal(position, batch["position"])
    assert torch.equal(prepare(batch, "cpu", False)[0], x_t)
    assert not torch.equal(prepare(batch | {"iteration": 1}, "cpu", False)[0], x_t)


def test_latent_slices_come_with_their_positions(make: Any) -> None:
    latents = LatentVolumes(make.volumes(), make.autoencoder())
    batch = LatentSliceBatches(latents, 8)(torch.Generator().manual_seed(0))
    of_all = torch.cat([latents.of(latents.volumes.volume(i))[0] for i in (0, 1)])
    for latent, position in zip(batch["latent"], batch["position"], strict=True):
        (found,) = (of_all == latent).flatten(1).all(1).nonzero().flatten().tolist()
        assert float(position) == pytest.approx((found % 9) / 9)


def test_all_parameters_learn(make: Any) -> None:
    network = make.slice_generator()
    out = network(noise(2, make.channels), torch.tensor([3, 700]), torch.tensor([0.1, 0.9]))
    out.square().sum().backward()
    # one token: the softmax over it is 1, so what asks for it has no say
    quiet = {"query", "norm"}
    idle = {k for k, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    crossed = {k for k in idle if ".cross." in k and k.split(".")[-2] in quiet}
    assert idle == crossed
