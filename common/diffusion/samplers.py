"""Samplers: one function per published method, from pure noise to clean data.

All take the same arguments, listed at `ddpm`. A step goes from one stop of the trajectory to the
next; stops are the given timesteps and the clean end. Coefficients are Python floats computed in
double precision, so a step costs the network call and a few elementwise operations.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from common.diffusion.coefficients import (
    ddim_noise,
    extrapolation,
    first_order,
    flow_stops,
    posterior,
    step_noise,
    stops,
)
from common.diffusion.fused import fits, fused_sample
from common.diffusion.guidance import Denoiser
from common.diffusion.overlap import Imposer, KnownSlices, Level
from common.diffusion.rng import NoiseSource
from common.diffusion.schedules import Prediction, Schedule, learned_log_variance, to_x0_eps
from common.errors import MedpairError

Clip = tuple[float, float]
OnStep = Callable[[int, int, Tensor], None]
_Step = Callable[[Tensor, int, int], Tensor]  # state, stop it is at, number of the move
_Predict = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # state, stop -> x_0, eps


@torch.no_grad()
def ddpm(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    noise: NoiseSource,
    prediction: Prediction = "eps",
    overlap: KnownSlices | None = None,
    clip: Clip | None = None,
    on_step: OnStep | None = None,
    learned_sigma: bool = False,
) -> Tensor:
    """Ancestral sampling from the posterior q(x_s | x_t, x_0), exact for any subset of timesteps.

    Args:
        denoiser: (x_t (B, ...), t (B,) int64) -> raw network output of the given prediction type.
        x_T: (B, ...) standard normal state at timesteps[0]; its type is the type of all states.
        schedule: signal and noise amplitudes.
        timesteps: strictly falling, from `select_timesteps`.
        noise: noise(move, purpose) -> standard normal of x's shape; purposes "step", "known" and
            "resample". Moves count network steps and jumps back from 0.
        prediction: what the network puts out.
        overlap: known slices to agree with; they equal its x_0 exactly in the result.
        clip: (lowest, highest) value of the estimated x_0; eps follows. None: no clipping.
        on_step: called as on_step(move, t, x) after every move with the state it led to; t is
            the timestep of that state (-1 when clean).
        learned_sigma: the output has twice the channels of x, on axis 1: the prediction, then
            logits of the variance, see `learned_log_variance`. Other samplers take no such output.

    Returns:
        x_0, (B, ...).

    Raises:
        MedpairError: if the timesteps do not fall or leave the schedule, a jump does not fit, or
            the output has another number of channels.

    Source: Ho et al. (2006.11239), eq. 6-7, between neighbours of the subset; learned variance:
    Nichol and Dhariwal (2102.09672), eq. 15.
    """
    levels = stops(schedule, timesteps)
    split = _VarianceSplit(denoiser)
    predict = _predictor(split if learned_sigma else denoiser, x_T, levels, prediction, clip)
    coefficients = [posterior(t, s) for t, s in pairwise(levels)]

    def step(x: Tensor, i: int, move: int) -> Tensor:
        by_x, by_x_0, std = coefficients[i]
        mean = by_x * x + by_x_0 * predict(x, i)[0]
        if std == 0:
            return mean
        spread = split.std(levels[i], levels[i + 1]) if learned_sigma else std
        return mean + spread * noise(move, "step")

    imposer = Imposer(overlap, levels, schedule, noise, fresh=True)
    return _walk(step, x_T, imposer, on_step)


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    noise: NoiseSource,
    prediction: Prediction = "eps",
    overlap: KnownSlices | None = None,
    clip: Clip | None = None,
    on_step: OnStep | None = None,
    eta: float = 0.0,
) -> Tensor:
    """Non-Markovian sampling: deterministic at eta = 0, DDPM's posterior at eta = 1.

    Args: as for `ddpm`, and
        eta: share of DDPM's noise, >= 0; above 1 only as long as the noise fits the next level.
            Known slices keep one noise along the trajectory at eta = 0, else draw it anew.

    Returns:
        x_0, (B, ...).

    Raises:
        MedpairError: as `ddpm`, and if eta is negative or too large.

    Source: Song et al. (2010.02502), eq. 12 and 16.
    """
    levels = stops(schedule, timesteps)
    predict = _predictor(denoiser, x_T, levels, prediction, clip)
    coefficients = [ddim_noise(t, s, eta) for t, s in pairwise(levels)]

    def step(x: Tensor, i: int, move: int) -> Tensor:
        x_0, eps = predict(x, i)
        by_eps, std = coefficients[i]
        mean = levels[i + 1].alpha * x_0 + by_eps * eps
        return mean if std == 0 else mean + std * noise(move, "step")

    imposer = Imposer(overlap, levels, schedule, noise, fresh=eta > 0)
    return _walk(step, x_T, imposer, on_step)


@torch.no_grad()
def dpm_solver_pp_2m(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    noise: NoiseSource,
    prediction: Prediction = "eps",
    overlap: KnownSlices | None = None,
    clip: Clip | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Second order multistep solver of the probability flow in log-SNR time.

    The first step, a step after a jump back and the step to the clean end are of first order.

    Args: as for `ddpm`.

    Returns:
        x_0, (B, ...).

    Raises:
        MedpairError: as `ddpm`.

    Source: Lu et al. (2211.01095), algorithm 2.
    """
    levels = stops(schedule, timesteps)
    predict = _predictor(denoiser, x_T, levels, prediction, clip)
    last: tuple[int, Tensor] = (-2, x_T)

    def step(x: Tensor, i: int, _: int) -> Tensor:
        nonlocal last
        x_0 = predict(x, i)[0]
        (before, x_0_before), last = last, (i, x_0)
        target = x_0
        if before == i - 1 and levels[i + 1].sigma > 0:
            weight = extrapolation(levels[i - 1], levels[i], levels[i + 1])
            target = (1 + weight) * x_0 - weight * x_0_before
        by_x, by_target = first_order(levels[i], levels[i + 1])
        return by_x * x + by_target * target

    imposer = Imposer(overlap, levels, schedule, noise, fresh=False)
    return _walk(step, x_T, imposer, on_step)


@torch.no_grad()
def rectified_flow(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    noise: NoiseSource,
    prediction: Prediction = "flow",
    overlap: KnownSlices | None = None,
    clip: Clip | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Euler steps along the straight path x_t = (1 - t/T) x_0 + (t/T) eps.

    Args: as for `ddpm`, but
        schedule: only its T counts.
        timesteps: strictly falling in T..1, from `select_flow_timesteps`; t = 0 is clean.
        prediction: "flow" (the network puts out x_0 - eps, as MONAI trains it), "x0" or "eps".

    Returns:
        x_0, (B, ...).

    Raises:
        MedpairError: as `ddpm`, and for "v", which belongs to variance preserving schedules.

    Source: Liu et al. (2209.03003), eq. 1 and algorithm 1.
    """
    flow, levels = flow_stops(schedule, timesteps, prediction)
    predict = _predictor(denoiser, x_T, levels, prediction, clip)

    def step(x: Tensor, i: int, _: int) -> Tensor:
        x_0, eps = predict(x, i)
        return x + (levels[i].sigma - levels[i + 1].sigma) * (x_0 - eps)

    imposer = Imposer(overlap, levels, flow, noise, fresh=False)
    return _walk(step, x_T, imposer, on_step)


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "rectified_flow": rectified_flow,
}


def sample(name: str, *args: Any, **kwargs: Any) -> Tensor:
    """Run the sampler of that name in `SAMPLERS` with its own arguments.

    Where the kernels run and can draw the noise, the same trajectory takes one launch between two
    network calls, see `common.diffusion.fused`.

    Raises:
        MedpairError: for an unknown name, and as the sampler.
    """
    if name not in SAMPLERS:
        raise MedpairError(f"sampler: {name!r}; want one of {sorted(SAMPLERS)}; change the key")
    if fits(name, *args, **kwargs):
        return fused_sample(name, *args, **kwargs)
    return SAMPLERS[name](*args, **kwargs)


def _predictor(
    denoiser: Denoiser,
    x_T: Tensor,
    levels: Sequence[Level],
    prediction: Prediction,
    clip: Clip | None,
) -> _Predict:
    """Bind the denoiser to the stops: (state, stop) -> estimates of x_0 and eps."""
    times = torch.tensor([level.t for level in levels], device=x_T.device)

    def predict(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        _, alpha, sigma = levels[i]
        output = denoiser(x, times[i].expand(len(x))).to(x.dtype)
        x_0, eps = to_x0_eps(output, x, alpha, sigma, prediction)
        if clip is not None:
            x_0 = x_0.clamp(*clip)
            eps = (x - alpha * x_0) / sigma
        return x_0, eps

    return predict


class _VarianceSplit:
    """A denoiser that puts out the prediction and keeps the logits of the variance."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        output = self.denoiser(x, t)
        if output.shape[1] != 2 * x.shape[1]:
            raise MedpairError(
                f"learned_sigma: the network puts out {output.shape[1]} channels; want "
                f"{2 * x.shape[1]}, prediction and variance; use a network trained with it"
            )
        prediction, logits = output.chunk(2, dim=1)
        self.logits = logits.to(x.dtype)
        return prediction

    def std(self, t: Level, s: Level) -> Tensor:
        """Std of the step from t to s at the latest output, s not clean."""
        log_beta, log_posterior = math.log(step_noise(t, s)), 2 * math.log(posterior(t, s)[2])
        return (learned_log_variance(self.logits, log_beta, log_posterior) / 2).exp()


def _walk(step: _Step, x: Tensor, imposer: Imposer, on_step: OnStep | None) -> Tensor:
    """Take the state through all stops, with jumps back and known slices where asked."""
    x = imposer.impose(x, 0, 0)
    for move, (stop, to) in enumerate(imposer.moves()):
        x = step(x, stop, move) if to > stop else imposer.jump_back(x, stop, to, move)
        x = imposer.impose(x, to, move + 1, jumped=to < stop)
        if on_step:
            on_step(move, imposer.levels[to].t, x)
    return x
