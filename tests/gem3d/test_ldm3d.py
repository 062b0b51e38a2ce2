"""The conditional 3D latent diffusion baseline: data, network, training target and sampling."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from common.diffusion.schedules import to_x0_eps
from common.engines.batches import IterationBatches, iteration_generator
from common.errors import MedpairError
from gem3d.autoencoder import SliceAutoencoder
from gem3d.baseline_data import LatentVolumeBatches
from gem3d.ldm3d import LatentVolumeDenoiser, PrepareLatentBatch, on_latent_volumes
from gem3d.ldm3d_inference import LatentVolumeInferer
from gem3d.windows import LatentVolumes

C, K = 4, 6  # as tests/gem3d/conftest.py


def small(make: Any, *, informed: bool = False, **changes: Any) -> LatentVolumeDenoiser:
    options = {"channels": (8, 8), "head_channels": 4} | changes
    torch.manual_seed(0)
    return make.randomise(LatentVolumeDenoiser(C, K, informed, **options))


def batches(make: Any, autoencoder: SliceAutoencoder, size: int = 2) -> LatentVolumeBatches:
    volumes = make.volumes(size=(6, 8, 8))
    return LatentVolumeBatches(LatentVolumes(volumes, autoencoder), size)


def encoding(make: Any) -> Any:
    return make.encoding(contour=False)


def inferer(make: Any, **changes: Any) -> LatentVolumeInferer:
    options = {"num_steps": 3, "seed": 5} | changes
    return LatentVolumeInferer(make.autoencoder(), encoding(make), make.schedule, **options)


class KnowsAnswer(nn.Module):
    """A denoiser that always sees through to the same clean latents, per volume."""

    def __init__(self, x_0: Tensor, schedule: Any) -> None:
        super().__init__()
        self.x_0, self.schedule, self.latent_channels = x_0, schedule, C

    def condition(self, mask: Tensor, informed: Tensor) -> Tensor:
        return mask.transpose(1, 2)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        alpha, sigma = (a.float().view(-1, 1, 1, 1, 1) for a in self.schedule.alpha_sigma(t))
        return (alpha * x - self.x_0) / sigma  # v, of x_0 = alpha x - sigma v


@settings(deadline=None, max_examples=10)
@given(st.tuples(*[st.integers(1, 7)] * 3))
def test_the_network_takes_any_size(make: Any, size: tuple[int, int, int]) -> None:
    x, mask = torch.randn(2, C, *size), torch.rand(2, K, *size)
    out = small(make, channels=(8, 8, 8), attention_levels=(False, False, True))(
        x, torch.tensor([3, 900]), mask
    )
    assert out.shape == x.shape
    assert bool(torch.isfinite(out).all())


def test_a_batch_holds_the_latents_and_a_slice_of_each_volume(make: Any) -> None:
    autoencoder = make.autoencoder()
    data = batches(make, autoencoder)
    drawn = data(iteration_generator(0, 1))
    assert drawn["latent"].shape == (2, C, 6, 2, 2)
    assert drawn["informed"].shape == (2, C + 2, 6, 2, 2)
    for latent, label, informed in zip(*drawn.values(), strict=True):
        (index,) = (informed[-1, :, 0, 0] == 0).nonzero()[:, 0].tolist()
        assert torch.equal(informed[:C], latent[:, index : index + 1].expand(-1, 6, -1, -1))
        assert bool((informed[C] == 1).all())
        assert torch.equal(informed[-1, :, 1, 1], (torch.arange(6) - index) / 6)
        volume = next(v for v in range(2) if torch.equal(data.latents.volumes.labels[v], label))
        image = data.latents.volumes.images[volume]
        torch.testing.assert_close(latent, autoencoder.encode(image[:, None]).transpose(0, 1))


def test_scans_of_two_depths_do_not_make_a_batch(make: Any) -> None:
    volumes = make.volumes(size=(6, 8, 8))
    volumes.images[1], volumes.labels[1] = volumes.images[1][:5], volumes.labels[1][:5]
    data = LatentVolumeBatches(LatentVolumes(volumes, make.autoencoder()), 8)
    with pytest.raises(MedpairError, match="a batch of 8 whole volumes"):
        data(iteration_generator(0, 0))


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_state_and_target_lead_back_to_the_latents(make: Any, prediction: Any) -> None:
    drawn = batches(make, make.autoencoder())(iteration_generator(0, 0))
    network = small(make, informed=True)
    prepare = PrepareLatentBatch(network, encoding(make), make.schedule, prediction)
    x_t, target, (t, condition), _ = prepare(drawn | {"seed": 0, "iteration": 4}, "cpu", False)
    for n in range(2):
        alpha, sigma = make.schedule.alpha_sigma(int(t[n]))
        x_0, _ = to_x0_eps(target[n], x_t[n], alpha, sigma, prediction)
        torch.testing.assert_close(x_0, drawn["latent"][n], atol=1e-3, rtol=0)
    fractions = F.avg_pool2d(
        F.one_hot(drawn["label"].long(), K).movedim(-1, 1).flatten(1, 2).float(), 4
    )
    assert torch.equal(condition[:, :K], fractions.unflatten(1, (K, 6)))
    assert torch.equal(condition[:, K:], drawn["informed"])


def test_draws_belong_to_the_iteration_and_dropout_hides_the_slice(make: Any) -> None:
    drawn = batches(make, make.autoencoder())(iteration_generator(0, 0))
    network = small(make, informed=True)
    kept, hidden = (
        PrepareLatentBatch(network, encoding(make), make.schedule, informed_dropout=share)
        for share in (0.0, 1.0)
    )
    one, again, later = (
        kept(drawn | {"seed": 0, "iteration": i}, "cpu", False)[0] for i in (4, 4, 5)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, later)
    *_, (_, condition), _ = hidden(drawn | {"seed": 0, "iteration": 4}, "cpu", False)
    assert not condition[:, K:].any()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm_solver_pp_2m"])
def test_a_perfect_network_gives_the_decoded_latents(make: Any, sampler: str) -> None:
    """Masks of 7 x 6 voxels lie on 2 x 2 latent pixels; what is padded is cut off again."""
    x_0 = torch.randn(2, C, 5, 2, 2, generator=torch.Generator().manual_seed(1))
    run = inferer(make, sampler=sampler)
    mask = torch.zeros(2, 1, 5, 7, 6, dtype=torch.uint8)
    made = run(
        mask,
        KnowsAnswer(x_0, make.schedule),
        torch.zeros(2, 7, 6),
        torch.tensor([2, 2]),
        torch.arange(2),
    )
    slices = run.autoencoder.decode(x_0.transpose(1, 2).flatten(0, 1))
    expected = slices.view(2, 5, 1, 8, 8)[..., :7, :6].transpose(1, 2)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


def sampled(make: Any, numbers: list[int], seed: int = 5, **changes: Any) -> Tensor:
    label = torch.stack([make.label((5, 8, 8), n) for n in numbers])[:, None]
    seen = torch.stack([torch.full((8, 8), n / 10) for n in numbers])
    network = changes.pop("network", None) or small(make, informed=True)
    index = changes.pop("index", 2)
    seen = changes.pop("seen", seen)
    return inferer(make, seed=seed)(
        label, network, seen, torch.full((len(numbers),), index), torch.tensor(numbers)
    )


def test_the_image_belongs_to_seed_and_volume(make: Any) -> None:
    together = sampled(make, [3, 7, 1])
    torch.testing.assert_close(together[1:2], sampled(make, [7]), atol=1e-4, rtol=0)
    assert torch.equal(sampled(make, [7]), sampled(make, [7]))
    assert (sampled(make, [7]) - sampled(make, [7], seed=6)).abs().max() > 1e-3


def test_the_slice_matters_only_to_an_informed_network(make: Any) -> None:
    other = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(2))
    for informed in (False, True):
        network = small(make, informed=informed)
        one = sampled(make, [7], network=network)
        assert torch.equal(one, sampled(make, [7], network=network, seen=other)) is not informed
        assert torch.equal(one, sampled(make, [7], network=network, index=4)) is not informed


def test_a_network_remembers_the_scale_of_its_latents(make: Any) -> None:
    autoencoder = make.autoencoder()
    network = on_latent_volumes(small(make), autoencoder, "cpu")
    assert torch.equal(network.latent_std, autoencoder.latent_std)
    with pytest.raises(MedpairError, match="latent_channels: 4 in network_def; want 8"):
        on_latent_volumes(small(make), make.autoencoder(latent_channels=8), "cpu")


def fit(make: Any, *, informed: bool, iterations: int = 40) -> tuple[float, float]:
    """Train on constant volumes that only their slices tell apart.

    Returns the error of the clean latents seen from almost pure noise, before and after.
    """
    autoencoder, schedule = make.autoencoder(), make.schedule
    volumes = make.volumes(count=4, size=(4, 8, 8))
    for number, image in enumerate(volumes.images):
        image.fill_(number / 2 - 0.75)
    autoencoder.fit_scale(torch.stack([image[:1] for image in volumes.images]))
    data = LatentVolumeBatches(LatentVolumes(volumes, autoencoder), 8)
    torch.manual_seed(0)
    network = LatentVolumeDenoiser(C, K, informed, (8, 8), (False, False), head_channels=8)
    prepare = PrepareLatentBatch(network, encoding(make), schedule)
    optimizer = torch.optim.AdamW(network.parameters(), 0.003)

    @torch.no_grad()
    def error() -> float:
        drawn, t = data(iteration_generator(9, 0)), schedule.T - 1
        x_0, (alpha, sigma) = drawn["latent"], schedule.alpha_sigma(t)
        eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
        x_t = alpha * x_0 + sigma * eps
        condition = network.condition(encoding(make)(drawn["label"]), drawn["informed"])
        out = network(x_t, torch.full((8,), t), condition)
        return float((to_x0_eps(out, x_t, alpha, sigma, "v")[0] - x_0).square().mean())

    before = error()
    for drawn in islice(IterationBatches(data, 0, iterations), iterations):
        x_t, target, arguments, _ = prepare(drawn, "cpu", False)
        loss = F.mse_loss(network(x_t, *arguments), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, error()


def test_training_lowers_the_error_and_the_slice_tells_what_the_mask_cannot(make: Any) -> None:
    before, after = fit(make, informed=True)
    _, blind = fit(make, informed=False)
    assert after < 0.25 * before
    assert after < 0.6 * blind
