"""The weights of sampler steps between two levels, as Python floats in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from common.diffusion.overlap import Level
from common.diffusion.schedules import FlowSchedule, Prediction, Schedule
from common.errors import MedpairError


def stops(schedule: Schedule, timesteps: Sequence[int], clean: int = -1) -> list[Level]:
    """The stops of a trajectory: the given timesteps, then the clean end.

    Raises:
        MedpairError: if the timesteps do not fall or leave the schedule.
    """
    if not timesteps or any(t <= s for t, s in pairwise((*timesteps, clean))):
        raise MedpairError(
            f"timesteps: {tuple(timesteps)}; want strictly falling, above {clean}; "
            "take them from select_timesteps"
        )
    return [*(Level(t, *schedule.alpha_sigma(t)) for t in timesteps), Level(clean, 1.0, 0.0)]


def flow_stops(
    schedule: Schedule, timesteps: Sequence[int], prediction: Prediction
) -> tuple[FlowSchedule, list[Level]]:
    """The straight path with the T of a schedule, and its stops.

    Raises:
        MedpairError: as `stops`, and for "v", which belongs to variance preserving schedules.
    """
    if prediction == "v":
        raise MedpairError("prediction: 'v'; want 'flow', 'x0' or 'eps'; change the key")
    flow = FlowSchedule(schedule.T)
    return flow, stops(flow, timesteps, clean=0)


def posterior(t: Level, s: Level) -> tuple[float, float, float]:
    """Mean weights of x_t and x_0, and the std, of q(x_s | x_t, x_0). Source: 2006.11239, eq. 7."""
    ratio, share = t.alpha / s.alpha, _forward_share(t, s)
    return ratio * (s.sigma / t.sigma) ** 2, s.alpha * share, s.sigma * math.sqrt(share)


def step_noise(t: Level, s: Level) -> float:
    """The variance of q(x_t | x_s), DDPM's beta between the two. Source: 2006.11239, eq. 2."""
    return 1 - (t.alpha / s.alpha) ** 2


def ddim_noise(t: Level, s: Level, eta: float) -> tuple[float, float]:
    """Weight of the estimated eps and std of the new noise. Source: 2010.02502, eq. 12 and 16.

    Raises:
        MedpairError: if eta is negative or too large.
    """
    share = eta**2 * _forward_share(t, s)
    if s.sigma == 0:
        return 0.0, 0.0
    if eta < 0 or share > 1:
        raise MedpairError(f"eta: {eta}; want 0..1 (above 1 only in small steps); change the key")
    return s.sigma * math.sqrt(1 - share), s.sigma * math.sqrt(share)


def first_order(t: Level, s: Level) -> tuple[float, float]:
    """Weights of x_t and of x_0 in a step of DPM-Solver++. Source: 2211.01095, eq. 9 (k = 1)."""
    by_x = s.sigma / t.sigma
    return by_x, s.alpha - by_x * t.alpha


def extrapolation(before: Level, t: Level, s: Level) -> float:
    """Share w of (1 + w) x_0(t) - w x_0(before), the target of the step from t to s.

    0 for the step to the clean end. Source: 2211.01095, algorithm 2, with w = 1 / (2 r).
    """
    if s.sigma <= 0:
        return 0.0
    return (_log_snr(s) - _log_snr(t)) / (2 * (_log_snr(t) - _log_snr(before)))


def _forward_share(t: Level, s: Level) -> float:
    """The part of the noise power at t that came in after s, 0..1."""
    return 1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2


def _log_snr(level: Level) -> float:
    """Half the log-SNR, log(alpha / sigma); infinite at the ends. Source: 2211.01095, section 2."""
    if level.alpha == 0:
        return -math.inf
    return math.inf if level.sigma == 0 else math.log(level.alpha / level.sigma)
