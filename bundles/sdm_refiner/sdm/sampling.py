"""Slices from the baseline DDPM, drawn from pure noise.

N slices, C image channels, a, b slice size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion.rng import STAGES, NoiseStream
from common.diffusion.samplers import sample
from common.diffusion.schedules import select_timesteps
from common.engines.inferers import precision_context
from common.errors import MedpairError
from sdm.diffusion import SliceDiffusion, check_sampler
from sdm.refine import MOST_SLICES, SHARED
from sdm.unconditional import UnconditionalDenoisers
from sdm.views import VIEWS


@dataclass(frozen=True)
class SliceSampling:
    """How slices are drawn.

    Args:
        network: a network per view, in eval mode.
        diffusion: schedule and prediction type that they were trained with.
        sampler: "ddpm" (published), "ddim" or "dpm_solver_pp_2m".
        num_steps: 1..T (published: T).
        batch_size: slices per network call; a slice does not depend on it beyond rounding.
        seed: the run's seed; with the view and the number of a slice it keys the noise.
        precision: "fp32", "auto", "bf16" or "fp16".

    Raises:
        MedpairError: for another sampler, or a number outside its range.
    """

    network: UnconditionalDenoisers
    diffusion: SliceDiffusion
    sampler: str = "ddim"
    num_steps: int = 50
    batch_size: int = 32
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        check_sampler(self.sampler)
        if self.batch_size < 1:
            raise MedpairError(f"batch_size: {self.batch_size}; want 1 or more")
        select_timesteps(self.diffusion.schedule.T, self.num_steps)

    @torch.no_grad()
    def draw(self, view: str, count: int, size: Sequence[int]) -> Tensor:
        """Draw slices of a view.

        Args:
            view: one of the network's views.
            count: N, 1 or more.
            size: (a, b); sizes that the network's stride does not divide are padded, then cropped.

        Returns:
            (N, C, a, b) float32 in [0, 1], on the CPU.

        Raises:
            MedpairError: if the count is below 1 or the view has no network.
        """
        if count < 1:
            raise MedpairError(f"slices_per_view: {count}; want 1 or more")
        parts = [
            self._batch(view, part.tolist(), size)
            for part in torch.arange(count).split(self.batch_size)
        ]
        return torch.cat(parts)

    def _batch(self, view: str, numbers: list[int], size: Sequence[int]) -> Tensor:
        device = next(self.network.parameters()).device
        # no window of a refinement
        window = (SHARED + 1) * MOST_SLICES + VIEWS.index(view)
        stream = NoiseStream(
            self.seed,
            numbers,
            STAGES["sdm"],
            [window] * len(numbers),
            (self.network.image_channels, *(n + -n % self.network.stride for n in size)),
            device=device,
        )

        def denoiser(x: Tensor, t: Tensor) -> Tensor:
            with precision_context(device, self.precision):
                prediction: Tensor = self.network(x, t.float(), None, None, view)
            return prediction.float()

        schedule = self.diffusion.schedule
        drawn: Tensor = sample(
            self.sampler,
            denoiser,
            stream(0, "init"),
            schedule,
            select_timesteps(schedule.T, self.num_steps),
            noise=stream,
            prediction=self.diffusion.prediction,
            clip=(-1.0, 1.0),
        )
        return ((drawn[..., : size[0], : size[1]] + 1) / 2).clamp(0, 1).cpu()
