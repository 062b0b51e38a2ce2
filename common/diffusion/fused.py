"""Sampling with one kernel launch between two network calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from common.diffusion.guidance import Denoiser
from common.diffusion.overlap import KnownSlices
from common.diffusion.rng import NoiseStream
from common.diffusion.rows import Clip, sampler_rows
from common.diffusion.schedules import Prediction, Schedule
from common.kernels import Known, TailTable, sampler_tail, use_triton

OnStep = Callable[[int, int, Tensor], None]


@torch.no_grad()
def fits(
    name: str,
    denoiser: Denoiser,  # noqa: ARG001 - the samplers' arguments, in their order
    x_T: Tensor,
    *_: Any,
    noise: object,
    learned_sigma: bool = False,
    **options: Any,
) -> bool:
    """Say whether `fused_sample` takes the arguments of `common.diffusion.samplers.sample`.

    It does where the kernels run, for a float32 state, a noise stream they can draw, and a variance
    that is not learned.
    """
    if learned_sigma or not isinstance(noise, NoiseStream) or ("eta" in options and name != "ddim"):
        return False
    drawn = noise.dtype == x_T.dtype == torch.float32 and noise.keys_B4.device == x_T.device
    same = tuple(x_T.shape) == (len(noise.keys_B4), *noise.shape)
    return drawn and same and use_triton(x_T)


@torch.no_grad()
def fused_sample(
    name: str,
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    noise: NoiseStream,
    prediction: Prediction | None = None,
    overlap: KnownSlices | None = None,
    clip: Clip | None = None,
    on_step: OnStep | None = None,
    eta: float = 0.0,
    learned_sigma: bool = False,
) -> Tensor:
    """Run a sampler by its rows; equal to the sampler itself up to rounding.

    Args: as for the sampler, but
        name: name in `common.diffusion.samplers.SAMPLERS`.
        denoiser: where it has `passes`, as `Guided` has, guidance is fused too.
        x_T: float32.
        noise: a stream of its shape.
        learned_sigma: must be False.

    Returns:
        x_0, (B, ...), contiguous.

    Raises:
        MedpairError: as the sampler.
    """
    assert not learned_sigma
    walk = FusedWalk(
        name,
        schedule,
        timesteps,
        noise=noise,
        prediction=prediction,
        overlap=overlap,
        clip=clip,
        eta=eta,
    )
    passes = getattr(denoiser, "passes", None) or (lambda x, t: (denoiser(x, t), (1.0,)))
    x = walk.start(x_T)
    for move, (stop, to) in enumerate(walk.moves):
        if to > stop:
            x = walk.move(x, move, *passes(x, walk.time(stop, len(x))))
        else:
            x = walk.move(x, move)
        if on_step:
            on_step(move, walk.levels[to].t, x)
    return x


class FusedWalk:
    """A trajectory whose moves are launches: `start`, then `move` 0, 1, ... in this order.

    Args: as for `fused_sample`.
    """

    def __init__(
        self,
        name: str,
        schedule: Schedule,
        timesteps: Sequence[int],
        *,
        noise: NoiseStream,
        prediction: Prediction | None = None,
        overlap: KnownSlices | None = None,
        clip: Clip | None = None,
        eta: float = 0.0,
    ) -> None:
        predicted: Prediction = "flow" if name == "rectified_flow" else "eps"
        walk = sampler_rows(
            name,
            schedule,
            timesteps,
            prediction=prediction or predicted,
            overlap=overlap,
            clip=clip,
            eta=eta,
        )
        self.moves, self.levels = walk.moves, walk.levels
        self._keys, device = noise.keys_B4, noise.keys_B4.device
        self._table = TailTable.pack(walk.rows, clip is not None, device)
        self._times = torch.tensor([level.t for level in walk.levels], device=device)
        self._known = None if overlap is None else Known(overlap.x_0, overlap.mask)
        shape = (len(self._keys), *noise.shape)
        self._last = torch.zeros(shape, device=device) if walk.remembers else None

    def time(self, stop: int, count: int) -> Tensor:
        """Return the timestep of a stop, (count,) int64."""
        return self._times[stop].expand(count)

    def start(self, x_T: Tensor) -> Tensor:
        """Return x_T with its known slices replaced."""
        return x_T if self._known is None else self._tail(x_T, 0)

    def move(
        self,
        x: Tensor,
        number: int | Tensor,
        outputs: Tensor | None = None,
        weights: Sequence[float] = (1.0,),
    ) -> Tensor:
        """Return the state after a move.

        Args:
            x: (B, ...) state before.
            number: of the move; as a one-element tensor it is read on the device.
            outputs: of the network at x, see `common.kernels.sampler_tail`; None for a jump back.
            weights: of the passes in them.
        """
        return self._tail(x, number + 1, outputs, weights)

    def _tail(
        self,
        x: Tensor,
        row: int | Tensor,
        outputs: Tensor | None = None,
        weights: Sequence[float] = (1.0,),
    ) -> Tensor:
        last = None if outputs is None else self._last
        return sampler_tail(
            x,
            self._table,
            row,
            outputs,
            weights,
            known=self._known,
            keys_B4=self._keys,
            last=last,
        )
