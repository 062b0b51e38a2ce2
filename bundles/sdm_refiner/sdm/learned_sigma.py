"""Training of a learned variance: what the loss needs besides the target, and its bound.

N slices, C image channels, a, b slice size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.diffusion.schedules import (
    NoiseSchedule,
    Prediction,
    learned_log_variance,
    to_x0_eps,
)

HALF_BIN = 1 / 255  # data of 256 grey levels in [-1, 1], as in DDPM


def pack(target: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Return target, x_0, x_t (N, C, a, b) and t (N,) as one tensor (N, 3C + 1, a, b).

    MONAI's engines hand a loss the prediction and one target, and nothing else.
    """
    plane = t.to(target).view(-1, 1, 1, 1).expand_as(target[:, :1])
    return torch.cat([target, x_0, x_t, plane], dim=1)


def unpack(packed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return target, x_0, x_t and t as given to `pack`, t int64."""
    channels = packed.shape[1] // 3
    target, x_0, x_t, plane = packed.split([channels, channels, channels, 1], dim=1)
    return target, x_0, x_t, plane[:, 0, 0, 0].round().long()


def variational_bound(
    schedule: NoiseSchedule,
    prediction: Prediction,
    output: Tensor,
    logits: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    t: Tensor,
) -> Tensor:
    """Return L_t, the term of the variational bound at each slice's step.

    Args:
        schedule: noise schedule with T >= 2.
        prediction: what the output stands for.
        output: predictions (N, C, a, b); no gradient reaches them.
        logits: of the variance (N, C, a, b).
        x_0: clean slices.
        x_t: noisy slices.
        t: (N,) time steps 0..T-1, int64.

    Returns:
        (N,) bits per pixel: for t > 0 the divergence of the step's normal from the posterior
        q(x_(t-1) | x_t, x_0), for t = 0 the negative log-likelihood of x_0 in 256 grey levels.

    Source: Nichol and Dhariwal (2102.09672), eq. 4-7 and 15; DDPM (2006.11239), eq. 13.
    """
    alpha, sigma = (_column(value, x_0) for value in schedule.alpha_sigma(t))
    by_x_0, log_beta, log_posterior = (_column(value, x_0) for value in _step(schedule, t))
    log_variance = learned_log_variance(logits, log_beta, log_posterior)
    estimate, _ = to_x0_eps(output.detach(), x_t, alpha, sigma, prediction)
    gap = by_x_0 * (estimate - x_0)
    term = torch.where(
        (t == 0).view(-1, 1, 1, 1),
        -_log_likelihood(x_0, estimate, log_variance),
        _divergence(gap, log_posterior, log_variance),
    )
    return term.flatten(1).mean(1) / math.log(2)


def _step(schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight of x_0 in the posterior's mean, and the log of the bounds of its variance, (N,).

    At t = 0, where the posterior has no variance, the lower bound is that of t = 1.
    """
    (alpha_t, sigma_t), (alpha_s, _) = (schedule.alpha_sigma(step) for step in (t, t - 1))
    beta = 1 - (alpha_t / alpha_s) ** 2
    upper = t.clamp(min=1)
    (alpha_u, sigma_u), (alpha_l, sigma_l) = (schedule.alpha_sigma(n) for n in (upper, upper - 1))
    posterior = (1 - (alpha_u / alpha_l) ** 2) * (sigma_l / sigma_u) ** 2
    return alpha_s * beta / sigma_t**2, beta.log(), posterior.log()


def _divergence(gap: Tensor, log_true: Tensor, log_model: Tensor) -> Tensor:
    """KL divergence of normals whose means differ by the gap, from logs of their variances, nats.

    Source: DDPM (2006.11239), eq. 5 and 8.
    """
    spread = (log_true - log_model).exp() + gap**2 * (-log_model).exp()
    return 0.5 * (log_model - log_true + spread - 1)


def _log_likelihood(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability, in nats, of the grey level's bin around x_0; the outer bins are open.

    Source: DDPM (2006.11239), eq. 13.
    """
    per_std = (-0.5 * log_variance).exp()
    above = torch.special.ndtr((x_0 - mean + HALF_BIN) * per_std)
    below = torch.special.ndtr((x_0 - mean - HALF_BIN) * per_std)
    above = torch.where(x_0 > 1 - HALF_BIN, torch.ones_like(above), above)
    below = torch.where(x_0 < HALF_BIN - 1, torch.zeros_like(below), below)
    return (above - below).clamp(min=1e-12).log()


def _column(value_N: Tensor, like: Tensor) -> Tensor:
    """Return (N, 1, 1, 1) of the type of another tensor."""
    return value_N.to(like.dtype).view(-1, 1, 1, 1)
