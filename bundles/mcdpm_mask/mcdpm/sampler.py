"""Generation of whole masks: a start window, then forward and backward windows of many volumes.

V volumes, R rows of a batch, S slices per window, C code channels, K classes, D depth,
H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.diffusion.guidance import classifier_free
from common.diffusion.lockstep import Placed, Round, lockstep
from common.diffusion.overlap import KnownSlices
from common.diffusion.rng import STAGES, NoiseStream
from common.diffusion.samplers import sample
from common.diffusion.schedules import select_timesteps
from common.diffusion.windows import WindowPlan, plan_windows
from common.engines.inferers import AutocastInferer
from mcdpm.diffusion import MaskDiffusion, network_input


@dataclass(frozen=True)
class MaskSampler:
    """Sample mask volumes of any depth with a trained denoiser.

    Args:
        diffusion: label code, schedule and prediction type of the training.
        window: slices S per window (m in the paper).
        size: in-plane size (H, W) of the network.
        overlap: least number of known slices of a window (n in the paper).
        sampler: name in `common.diffusion.samplers.SAMPLERS`.
        num_steps: denoising steps per window.
        guidance_scale: 1 = conditional only; larger extrapolates from the unconditional mode.
        resample: RePaint passes per step; 1 = none. Known slices are imposed at every step.
        precision: see `common.engines.inferers.resolve_precision`.

    Source: MedGen3D §3.1, inference.
    """

    diffusion: MaskDiffusion
    window: int
    size: tuple[int, int]
    overlap: int = 2
    sampler: str = "ddim"
    num_steps: int = 50
    guidance_scale: float = 1.0
    resample: int = 1
    precision: str = "auto"

    @torch.no_grad()
    def __call__(
        self,
        network: nn.Module,
        *,
        volumes: Sequence[int],
        starts: Sequence[int],
        depth: int,
        seed: int,
    ) -> Tensor:
        """Generate masks.

        Args:
            network: the denoiser, on the device to be used.
            volumes: number of each volume, keys its noise.
            starts: first slice of each start window, 0..depth-1.
            depth: slices D per volume, >= 1.
            seed: the run's seed.

        Returns:
            Class scores (V, D, K, H, W), float32; the largest marks the label.
        """
        device = next(network.parameters()).device
        codec = self.diffusion.codec
        plans = [plan_windows(depth, self.window, self.overlap, start) for start in starts]
        shape = (len(plans), plans[0].padded_depth, codec.channels, *self.size)
        code_VDCHW = torch.zeros(shape, device=device)
        scores: list[dict[int, Tensor]] = [{} for _ in plans]
        for batch in lockstep(plans):
            sampled = self._round(network, batch, code_VDCHW, plans, volumes, seed)
            for placed in batch.windows:
                new = sampled[placed.row, placed.window.local(placed.window.new)]
                new_scores = codec.scores(new)
                scores[placed.slot] |= dict(zip(placed.window.new, new_scores, strict=True))
                rows = slice(placed.window.new.start, placed.window.new.stop)
                # hard decoding keeps errors of the code from growing along the volume
                code_VDCHW[placed.slot, rows] = codec.encode(codec.decode(new))
        ordered = [torch.stack([by_slice[z] for z in range(depth)]) for by_slice in scores]
        return torch.stack(ordered)

    def _round(
        self,
        network: nn.Module,
        batch: Round,
        code_VDCHW: Tensor,
        plans: Sequence[WindowPlan],
        volumes: Sequence[int],
        seed: int,
    ) -> Tensor:
        condition, known, position = self._conditions(batch, code_VDCHW, plans[0].depth)
        rows: list[Placed | None] = [None] * batch.rows
        for placed in batch.windows:
            rows[placed.row] = placed
        noise = NoiseStream(
            seed,
            [volumes[p.slot] if p else 0 for p in rows],
            STAGES["mcdpm"],
            [p.window.start if p else 0 for p in rows],
            condition.shape[1:],
            code_VDCHW.device,
        )
        forward = AutocastInferer(self.precision)

        def denoise(
            x: Tensor, t: Tensor, condition: Tensor, known: Tensor, position: Tensor
        ) -> Tensor:
            output = forward(network_input(x, condition, known), network, t.float(), position)
            return self.diffusion.estimate(output)

        denoiser = classifier_free(
            denoise,
            {"condition": condition, "known": known, "position": position},
            {"known": torch.zeros_like(known)},
            {"known": self.guidance_scale},
        )
        d = self.diffusion
        return sample(
            self.sampler,
            denoiser,
            noise(0, "init"),
            d.schedule,
            select_timesteps(d.schedule.T, self.num_steps),
            noise=noise,
            prediction=d.sampled_prediction,
            overlap=KnownSlices(condition, known[:, :, None, None, None], resample=self.resample),
        )

    def _conditions(
        self, batch: Round, code_VDCHW: Tensor, depth: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return condition code (R,S,C,H,W), known (R,S) and position (R,2) of a round."""
        condition = code_VDCHW.new_zeros(batch.rows, self.window, *code_VDCHW.shape[2:])
        known = torch.zeros(batch.rows, self.window, dtype=torch.bool, device=code_VDCHW.device)
        position = code_VDCHW.new_zeros(batch.rows, 2)
        for row, slot, window in ((p.row, p.slot, p.window) for p in batch.windows):
            place = window.local(window.known)
            condition[row, place] = code_VDCHW[slot, window.known.start : window.known.stop]
            known[row, place] = True
            position[row] = position.new_tensor([window.start / depth, 1 / depth])
        return condition, known, position
