"""The trajectory of a sampler as rows of numbers, from which a kernel makes each move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common.diffusion.coefficients import (
    ddim_noise,
    extrapolation,
    first_order,
    flow_stops,
    posterior,
    stops,
)
from common.diffusion.overlap import (
    KnownSlices,
    Level,
    known_amplitudes,
    plan_moves,
    renoise_weights,
)
from common.diffusion.rng import draw_word
from common.diffusion.schedules import Prediction, Schedule, to_x0_eps
from common.kernels.table import TailRow

Clip = tuple[float, float]
_Weights = dict[str, Any]  # fields of a row
_Rule = Callable[[int], _Weights]  # number of the stop that a step leaves -> fields of its row


@dataclass(frozen=True)
class Walk:
    """A trajectory.

    Args:
        rows: row 0 imposes the known slices on x_T and changes nothing else; row m + 1 is move m.
        moves: (from, to) stops of every move; upwards it is a step, which needs the network.
        levels: the stops.
        remembers: whether a step needs the x_0 of the one before.
    """

    rows: tuple[TailRow, ...]
    moves: tuple[tuple[int, int], ...]
    levels: tuple[Level, ...]
    remembers: bool


def sampler_rows(
    name: str,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    prediction: Prediction,
    overlap: KnownSlices | None = None,
    clip: Clip | None = None,
    eta: float = 0.0,
) -> Walk:
    """The walk that a sampler in `common.diffusion.samplers` would take.

    Args: as for the sampler, and
        name: "ddpm", "ddim", "dpm_solver_pp_2m" or "rectified_flow".

    Raises:
        MedpairError: as the sampler.
    """
    path: Schedule = schedule
    if name == "rectified_flow":
        path, levels = flow_stops(schedule, timesteps, prediction)
    else:
        levels = stops(schedule, timesteps)
    rules: dict[str, Callable[[], _Rule]] = {
        "ddpm": lambda: _ddpm(levels),
        "ddim": lambda: _ddim(levels, eta),
        "dpm_solver_pp_2m": lambda: _second_order(levels),
        "rectified_flow": lambda: _flow(levels),
    }
    rule = rules[name]()
    moves = plan_moves(len(levels) - 1, *((overlap.resample, overlap.jump) if overlap else ()))
    fresh = name == "ddpm" or (name == "ddim" and eta > 0)
    known = _known(overlap, levels, path, moves, fresh)
    rows = [TailRow(by_x=1.0)._replace(**known[0])]
    for move, (stop, to) in enumerate(moves):
        if to > stop:
            fields = rule(stop) | _estimates(levels[stop], prediction, clip)
            purpose = "step"
        else:
            ratio, std = renoise_weights(levels[stop], levels[to])
            fields, purpose = {"by_x": ratio, "std": std}, "resample"
        row = TailRow(step_word=draw_word(move, purpose))
        rows.append(row._replace(**fields, **known[move + 1]))
    return Walk(tuple(rows), moves, tuple(levels), name == "dpm_solver_pp_2m")


def _ddpm(levels: Sequence[Level]) -> _Rule:
    def rule(i: int) -> _Weights:
        by_x, by_x0, std = posterior(levels[i], levels[i + 1])
        return {"by_x": by_x, "by_x0": by_x0, "std": std}

    return rule


def _ddim(levels: Sequence[Level], eta: float) -> _Rule:
    def rule(i: int) -> _Weights:
        by_eps, std = ddim_noise(levels[i], levels[i + 1], eta)
        return {"by_x0": levels[i + 1].alpha, "by_eps": by_eps, "std": std}

    return rule


def _second_order(levels: Sequence[Level]) -> _Rule:
    last = -2

    def rule(i: int) -> _Weights:
        nonlocal last
        before, last = last, i
        by_x, by_target = first_order(levels[i], levels[i + 1])
        follows = before == i - 1
        share = extrapolation(levels[i - 1], levels[i], levels[i + 1]) if follows else 0.0
        return {"by_x": by_x, "by_x0": by_target * (1 + share), "by_last": -by_target * share}

    return rule


def _flow(levels: Sequence[Level]) -> _Rule:
    def rule(i: int) -> _Weights:
        way = levels[i].sigma - levels[i + 1].sigma
        return {"by_x": 1.0, "by_x0": way, "by_eps": -way}

    return rule


def _estimates(level: Level, prediction: Prediction, clip: Clip | None) -> _Weights:
    """Weights of the state and the output in x_0 and eps: `to_x0_eps` is linear in both."""
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    x0_x, eps_x = to_x0_eps(zero, one, level.alpha, level.sigma, prediction)
    x0_out, eps_out = to_x0_eps(one, zero, level.alpha, level.sigma, prediction)
    found = {"x0_x": float(x0_x), "x0_out": float(x0_out)}
    if clip is None:
        return found | {"eps_x": float(eps_x), "eps_out": float(eps_out)}
    by_sigma = float(one / level.sigma)
    return found | {
        "eps_x": by_sigma,
        "eps_out": -level.alpha * by_sigma,
        "clip_low": clip[0],
        "clip_high": clip[1],
    }


def _known(
    overlap: KnownSlices | None,
    levels: Sequence[Level],
    schedule: Schedule,
    moves: Sequence[tuple[int, int]],
    fresh: bool,
) -> list[_Weights]:
    """What imposes the known slices at the start and after every move, as `Imposer` does."""
    if overlap is None:
        return [{} for _ in range(len(moves) + 1)]
    amplitudes = known_amplitudes(overlap, levels, schedule)
    fresh = fresh or overlap.known_noise == "official"
    found: list[_Weights] = []
    drawn = 0
    for move, (stop, to) in enumerate([(0, 0), *moves]):
        alpha, sigma = amplitudes[to]
        if sigma > 0 and (fresh or to < stop):
            drawn = move
        word = draw_word(drawn, "known")
        found.append({"known_alpha": alpha, "known_sigma": sigma, "known_word": word})
    return found
