"""The learned variance: its bound against distributions of torch, its loss, its use in refining."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from common.data.datasets import Arrays
from common.data.views import view_names
from common.diffusion.schedules import build_schedule
from common.engines.inferers import AutocastInferer
from common.errors import MedpairError
from sdm.diffusion import PrepareSliceBatch, SliceDiffusion, SliceLoss
from sdm.learned_sigma import pack, unpack, variational_bound
from sdm.refine import MODES, Refinement, refine_volumes
from sdm.slices import SliceBatches
from sdm.views import ViewDenoisers

LINEAR = build_schedule("linear", 1000)
LEARNED = SliceDiffusion(LINEAR, "v", learned_sigma=True)
SIZE = (8, 12, 16)
SPACING = dict(zip(view_names("AP"), (3.0, 1.0, 2.0), strict=True))
LABEL = torch.randint(
    0, 6, (1, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def draws(channels: int, t: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Clean and noisy slices, a prediction, logits and the time steps."""
    generator = torch.Generator().manual_seed(0)
    shape, dtype = (len(t), channels, 4, 5), torch.float64
    x_0, output, logits = (
        torch.rand(shape, generator=generator, dtype=dtype) * 1.8 - 0.9 for _ in range(3)
    )
    eps = torch.randn(shape, generator=generator, dtype=dtype)
    steps = torch.tensor(t)
    alpha, sigma = (a.view(-1, 1, 1, 1) for a in LINEAR.alpha_sigma(steps))
    return x_0, alpha * x_0 + sigma * eps, output, logits, steps


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_packed_comes_out_again(channels: int) -> None:
    x_0, x_t, target, _, t = draws(channels, [0, 7, 999])
    found = unpack(pack(target.float(), x_0.float(), x_t.float(), t))
    for a, b in zip(found, (target.float(), x_0.float(), x_t.float(), t), strict=True):
        assert torch.equal(a, b)
    assert found[3].dtype == torch.int64


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("t", [1, 30, 999])
def test_the_bound_is_the_divergence_from_the_posterior_by_bayes_rule(
    channels: int, t: int
) -> None:
    x_0, x_t, output, logits, steps = draws(channels, [t, t])
    (a_t, s_t), (a_s, s_s) = LINEAR.alpha_sigma(t), LINEAR.alpha_sigma(t - 1)
    beta = 1 - (a_t / a_s) ** 2

    def posterior_mean(clean: Tensor) -> Tensor:
        return variance * (a_s * clean / s_s**2 + (a_t / a_s) * x_t / beta)

    variance = 1 / (1 / s_s**2 + (a_t / a_s) ** 2 / beta)
    share = (logits + 1) / 2
    std = torch.exp((share * math.log(beta) + (1 - share) * math.log(variance)) / 2)
    true = Normal(posterior_mean(x_0), math.sqrt(variance))
    model = Normal(posterior_mean(a_t * x_t - s_t * output), std)
    wanted = kl_divergence(true, model).mean((1, 2, 3)) / math.log(2)
    found = variational_bound(LINEAR, "v", output, logits, x_0, x_t, steps)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


def test_at_the_last_step_the_probabilities_of_all_grey_levels_sum_to_one() -> None:
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64).view(-1, 1, 1, 1)
    output, logits = torch.full_like(levels, 0.3), torch.full_like(levels, 0.4)
    x_t, t = torch.full_like(levels, 0.3), torch.zeros(256, dtype=torch.long)
    bits = variational_bound(LINEAR, "x0", output, logits, levels, x_t, t)
    probability = 2.0**-bits
    assert float(probability.sum()) == pytest.approx(1, abs=1e-8)
    assert int(probability.argmax()) == int((levels.flatten() - 0.3).abs().argmin())
    log_beta, log_next = (math.log(v) for v in (1e-4, _posterior_variance(1)))
    std = math.exp((0.7 * log_beta + 0.3 * log_next) / 2)
    law, nearest = Normal(0.3, std), levels.flatten()[int(probability.argmax())]
    bin_ = law.cdf(nearest + 1 / 255) - law.cdf(nearest - 1 / 255)
    assert float(probability.max()) == pytest.approx(float(bin_), rel=1e-6)


def _posterior_variance(t: int) -> float:
    (a_t, s_t), (a_s, s_s) = LINEAR.alpha_sigma(t), LINEAR.alpha_sigma(t - 1)
    return (1 - (a_t / a_s) ** 2) * (s_s / s_t) ** 2


@pytest.mark.parametrize("channels", [1, 3])
def test_the_bound_trains_the_variance_alone(channels: int) -> None:
    x_0, x_t, output, logits, t = (
        v.requires_grad_(v.dtype.is_floating_point) for v in draws(channels, [0, 30, 999])
    )
    variational_bound(LINEAR, "v", output, logits, x_0.detach(), x_t.detach(), t).sum().backward()
    assert output.grad is None
    assert logits.grad is not None
    assert bool((logits.grad != 0).flatten(1).any(1).all())


def test_the_best_logits_are_those_of_the_true_error() -> None:
    """For a network without error the posterior's own variance is best, v = -1."""
    x_0, x_t, _, _, t = draws(1, [30] * 200)
    alpha, sigma = LINEAR.alpha_sigma(30)
    truth = (alpha * x_t - x_0) / sigma
    bound = [
        float(variational_bound(LINEAR, "v", truth, torch.full_like(x_0, v), x_0, x_t, t).mean())
        for v in (-1.2, -1.0, -0.8)
    ]
    assert bound[1] == pytest.approx(0, abs=1e-9)
    assert min(bound[0], bound[2]) > 1e-6


def prepared(make_arrays: Callable[..., Arrays], diffusion: SliceDiffusion) -> Any:
    batch = SliceBatches(make_arrays(), "brain4", 6, 4, stride=4)(torch.Generator().manual_seed(0))
    return PrepareSliceBatch(diffusion, 6)(batch | {"seed": 1, "iteration": 2})


def test_the_loss_is_the_error_plus_the_weighted_bound(make_arrays: Callable[..., Arrays]) -> None:
    x_t, packed, (t, *_), _ = prepared(make_arrays, LEARNED)
    target, x_0, same, steps = unpack(packed)
    assert torch.equal(same, x_t)
    assert torch.equal(steps, t.long())
    output, logits = torch.randn(2, *target.shape, generator=torch.Generator().manual_seed(0))
    bound = variational_bound(LINEAR, "v", output, logits, x_0, x_t, steps).mean()
    wanted = F.mse_loss(output, target) + 0.001 * 1000 * bound
    assert torch.equal(SliceLoss(LEARNED)(torch.cat([output, logits], 1), packed), wanted)


def test_without_it_targets_and_loss_are_those_of_old(make_arrays: Callable[..., Arrays]) -> None:
    plain = SliceDiffusion(LINEAR, "v")
    assert not plain.learned_sigma
    x_t, target, rest, _ = prepared(make_arrays, plain)
    learned_x_t, packed, learned_rest, _ = prepared(make_arrays, LEARNED)
    assert torch.equal(x_t, learned_x_t)
    assert torch.equal(target, unpack(packed)[0])
    assert all(torch.equal(a, b) for a, b in zip(rest[:3], learned_rest[:3], strict=True))
    output = torch.randn_like(target)
    for loss in (SliceLoss(), SliceLoss(plain)):
        assert torch.equal(loss(output, target), F.mse_loss(output, target))


def test_a_network_that_does_not_fit_the_diffusion_is_named() -> None:
    x = torch.zeros(2, 1, 4, 4)
    message = "puts out {} channels; want {}; set learned_sigma alike"
    with pytest.raises(MedpairError, match=message.format(2, 1)):
        SliceLoss(SliceDiffusion(LINEAR))(torch.cat([x, x], 1), x)
    with pytest.raises(MedpairError, match=message.format(1, 2)):
        SliceLoss(LEARNED)(x, pack(x, x, x, torch.zeros(2)))


def test_monais_trainer_trains_the_variance(
    make_network: Callable[..., ViewDenoisers], make_arrays: Callable[..., Arrays]
) -> None:
    network = make_network(views="shared", learned_sigma=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batch = SliceBatches(make_arrays(), "brain4", 6, 4, stride=4)(torch.Generator().manual_seed(0))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[batch | {"seed": 1, "iteration": 2}] * 2,  # type: ignore[arg-type]
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 1e-3),
        loss_function=SliceLoss(LEARNED),
        inferer=AutocastInferer("fp32"),
        prepare_batch=PrepareSliceBatch(LEARNED, 6),
        decollate=False,
    )
    trainer.run()
    head = [name for name, value in before.items() if value.ndim == 4 and len(value) == 2]
    assert len(head) == 1
    changed = (network.state_dict()[head[0]] - before[head[0]]).flatten(1)
    assert bool(changed.any(1).all())  # what puts out the prediction, and what the variance


class Constant:
    """Stands for networks that learned a variance: v-prediction x / 2 and constant logits.

    Without a mask (guidance) the prediction is shifted and the logits are others.
    """

    mask_context, stride, num_classes = 0, 4, 6

    def __init__(self, channels: int, logit: float | None) -> None:
        self.image_channels, self.logit = channels, logit
        self.learned_sigma = logit is not None

    def one_hot(self, label: Tensor) -> Tensor:
        return label.float() + 1

    def modulations(self, mask: Tensor, view: str) -> list[Tensor]:
        return [mask]

    def denoise(
        self, x: Tensor, t: Tensor, maps: list[Tensor], position: Tensor, view: str
    ) -> Tensor:
        masked = maps[0].flatten(1).any(1).view(-1, 1, 1, 1)
        prediction = x / 2 + 0.1 * ~masked
        if self.logit is None:
            return prediction
        logits = torch.where(masked, self.logit, 0.77).expand_as(prediction)
        return torch.cat([prediction, logits], dim=1)


def refined(channels: int, logit: float | None, **settings: Any) -> Tensor:
    image = torch.rand(1, channels, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    options: dict[str, Any] = {"t_start": 100, "num_steps": 4, "sampler": "ddpm"} | settings
    how = Refinement(SliceDiffusion(LINEAR, "v"), slices_per_batch=5, **options)
    network: Any = Constant(channels, logit)
    return refine_volumes(network, LABEL, image, how, spacing=SPACING, seed=5, volumes=[3])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_variance_at_the_lower_bound_refines_as_none(channels: int, mode: str) -> None:
    lower, none, upper = (refined(channels, v, mode=mode) for v in (-1.0, None, 1.0))
    assert lower.shape == (1, channels, *SIZE)
    torch.testing.assert_close(lower, none, rtol=0, atol=1e-5)
    assert float((upper - none).abs().mean()) > 0.003


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp_2m"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_samplers_leave_the_variance_alone(channels: int, sampler: str) -> None:
    assert torch.equal(
        refined(channels, 0.3, sampler=sampler), refined(channels, None, sampler=sampler)
    )


@pytest.mark.parametrize("mode", ["mean", "joint"])
def test_guidance_leaves_the_variance_of_the_conditional_pass(mode: str) -> None:
    guided, plain = (refined(3, v, mode=mode, guidance_scale=1.5) for v in (-1.0, None))
    torch.testing.assert_close(guided, plain, rtol=0, atol=1e-5)
    assert not torch.equal(plain, refined(3, None, mode=mode))
