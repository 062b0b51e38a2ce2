"""Known slices inside a window: noised to the sampler's own level, blended in, resampled.

A state at any level is x = alpha x_0 + sigma eps. What is known is replaced, before the first
step and after every step, by its own noisy version at the level that the state has just reached.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from common.diffusion.rng import NoiseSource
from common.diffusion.schedules import Schedule
from common.errors import MedpairError

KnownNoise = Literal["correct", "official"]


class Level(NamedTuple):
    """One stop of a trajectory: its timestep and x = alpha x_0 + sigma eps."""

    t: int
    alpha: float
    sigma: float


@dataclass(frozen=True, eq=False)
class KnownSlices:
    """What a window must agree with.

    Args:
        x_0: clean data; read only under the mask; broadcasts to the state.
        mask: bool, True where known; broadcasts to the state.
        resample: times that each stretch of `jump` steps is walked, >= 1; 1 never goes back.
        jump: steps per stretch, >= 1.
        known_noise: "correct" noises to the level of the sampler's next timestep and ends exactly
            clean; "official" copies GEM-3D's released code, which looks up the sampler's step
            counter in the table of the training timesteps, for comparison.

    Raises:
        MedpairError: if the mask is not bool or a number lies outside its range.

    Source: Lugmayr et al., RePaint (2201.09865), algorithm 1 and section 4.2.
    """

    x_0: Tensor
    mask: Tensor
    resample: int = 1
    jump: int = 1
    known_noise: KnownNoise = "correct"

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool:
            raise MedpairError(f"mask: {self.mask.dtype}; want torch.bool; compare it first")
        for key in ("resample", "jump"):
            if getattr(self, key) < 1:
                raise MedpairError(f"{key}: {getattr(self, key)}; want >= 1; change the key")
        if self.known_noise not in ("correct", "official"):
            raise MedpairError(
                f"known_noise: {self.known_noise!r}; want 'correct' or 'official'; change the key"
            )


class Imposer:
    """Keeps the known slices of one trajectory, if any, at the level of the rest.

    Args:
        overlap: what is known; None leaves every state as it is.
        levels: the stops of the trajectory, noisiest first, the clean end last.
        schedule: the table that "official" looks its wrong levels up in.
        noise: the noise source.
        fresh: new noise at every stop (stochastic samplers). Otherwise the noise of the known
            slices stays the same along a trajectory, as a deterministic sampler would move them,
            until a jump back starts a new one.
    """

    def __init__(
        self,
        overlap: KnownSlices | None,
        levels: Sequence[Level],
        schedule: Schedule,
        noise: NoiseSource,
        fresh: bool,
    ) -> None:
        self.levels = levels
        self._overlap, self._noise, self._fresh = overlap, noise, fresh
        if overlap is None:
            return
        self._eps = noise(0, "known")
        self._fresh = fresh or overlap.known_noise == "official"
        self._amplitudes = known_amplitudes(overlap, levels, schedule)

    def moves(self) -> tuple[tuple[int, int], ...]:
        """The walk over the stops, see `plan_moves`."""
        num_steps, known = len(self.levels) - 1, self._overlap
        return plan_moves(num_steps, known.resample, known.jump) if known else plan_moves(num_steps)

    def impose(self, x: Tensor, stop: int, move: int, jumped: bool = False) -> Tensor:
        """The state at `levels[stop]` with its known slices replaced, after `move` moves."""
        if self._overlap is None:
            return x
        alpha, sigma = self._amplitudes[stop]
        known = self._overlap.x_0
        if sigma > 0:
            if move > 0 and (self._fresh or jumped):
                self._eps = self._noise(move, "known")
            known = alpha * known + sigma * self._eps
        return torch.where(self._overlap.mask, known, x)

    def jump_back(self, x: Tensor, stop: int, back: int, move: int) -> Tensor:
        """Take the state from `levels[stop]` back to the noisier `levels[back]`."""
        eps = self._noise(move, "resample")
        return renoise(x, self.levels[stop], self.levels[back], eps)


def renoise(x: Tensor, level: Level, noisier: Level, eps: Tensor) -> Tensor:
    """Draw of q(x_noisier | x_level); the marginals of the trajectory are kept.

    With a = alpha_noisier / alpha_level: a x + sqrt(sigma_noisier^2 - a^2 sigma_level^2) eps. This
    is RePaint's undo step for respaced timesteps, and the like for rectified flow.

    Args:
        x: state at `level`.
        level: where x is; alpha > 0.
        noisier: where to go.
        eps: standard normal noise of x's shape.

    Returns:
        State at `noisier`.

    Source: RePaint (2201.09865), algorithm 1, line 10, for any two levels of any schedule.
    """
    ratio, std = renoise_weights(level, noisier)
    return ratio * x + std * eps


def renoise_weights(level: Level, noisier: Level) -> tuple[float, float]:
    """Weight of the state and std of the noise in `renoise`."""
    ratio = noisier.alpha / level.alpha
    return ratio, math.sqrt(noisier.sigma**2 - (ratio * level.sigma) ** 2)


def known_amplitudes(
    overlap: KnownSlices, levels: Sequence[Level], schedule: Schedule
) -> list[tuple[float, float]]:
    """Signal and noise amplitude of the known slices at every stop. Args as for `Imposer`."""
    amplitudes = [(level.alpha, level.sigma) for level in levels]
    if overlap.known_noise == "official":
        counters = range(len(levels) - 2, -1, -1)
        amplitudes[1:] = [schedule.alpha_sigma(counter) for counter in counters]
    return amplitudes


def plan_moves(num_steps: int, resample: int = 1, jump: int = 1) -> tuple[tuple[int, int], ...]:
    """The walk over the stops 0 (x_T) .. num_steps (clean), as (from, to) pairs.

    Stops at the last noisy level and every `jump` before it are left backwards `resample` - 1
    times, by `jump` steps, before the walk goes on.

    Args:
        num_steps: network steps without jumps, >= 1.
        resample: times each stretch is walked, >= 1.
        jump: steps per stretch, < num_steps where resample > 1.

    Returns:
        The moves; (i, i + 1) is a sampler step, (i, i - jump) a jump back.

    Raises:
        MedpairError: if there is no room for a jump.

    Source: RePaint (2201.09865), section 4.2 and appendix D.
    """
    if resample > 1 and jump >= num_steps:
        raise MedpairError(
            f"jump: {jump}; want < {num_steps}, the number of steps; take more steps or resample=1"
        )
    left = dict.fromkeys(range(num_steps - 1, jump - 1, -jump), resample - 1)
    moves, stop = [], 0
    while stop < num_steps:
        moves.append((stop, stop + 1))
        stop += 1
        if left.get(stop, 0):
            left[stop] -= 1
            moves.append((stop, stop - jump))
            stop -= jump
    return tuple(moves)
