"""Generation of whole masks: a start window, then forward and backward windows of many volumes.

V volumes, R rows of a batch, S slices per window, C code channels, K classes, D depth,
H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.diffusion.guidance import Denoiser, classifier_free
from common.diffusion.lockstep import DIRECTIONS, Placed, Round, lockstep
from common.diffusion.overlap import KnownSlices
from common.diffusion.rng import STAGES, NoiseStream
from common.diffusion.samplers import sample
from common.diffusion.schedules import select_timesteps
from common.diffusion.windows import WindowPlan, plan_windows
from common.engines.footprint import peak_bytes
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
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Generate masks.

        Args:
            network: the denoiser, on the device to be used.
            volumes: number of each volume, keys its noise.
            starts: first slice of each start window, 0..depth-1.
            depth: slices D per volume, >= 1.
            seed: the run's seed.
            finish: what is kept of class scores (slices, K, H, W), slice by slice, such as their
                labels, which take less memory; None keeps them.

        Returns:
            Class scores (V, D, K, H, W), float32, the largest of which marks the label; or what
            ``finish`` makes of them.
        """
        device = next(network.parameters()).device
        codec = self.diffusion.codec
        plans = [self.plan(depth, start) for start in starts]
        shape = (len(plans), plans[0].padded_depth, *self.size)
        label_VDHW = torch.zeros(shape, dtype=torch.uint8, device=device)
        kept: list[dict[int, Tensor]] = [{} for _ in plans]
        for batch in lockstep(plans):
            sampled = self._round(network, batch, label_VDHW, depth, volumes, seed)
            for placed in batch.windows:
                new = sampled[placed.row, placed.window.local(placed.window.new)]
                scores = codec.scores(new) if finish is None else finish(codec.scores(new))
                # of clones, so that a slice does not keep its whole batch in memory
                kept[placed.slot] |= dict(zip(placed.window.new, scores.clone(), strict=True))
                rows = slice(placed.window.new.start, placed.window.new.stop)
                # hard decoding keeps errors of the code from growing along the volume
                label_VDHW[placed.slot, rows] = codec.decode(new)
        ordered = [torch.stack([by_slice[z] for z in range(depth)]) for by_slice in kept]
        return torch.stack(ordered)

    def plan(self, depth: int, start: int) -> WindowPlan:
        """Return the windows of a volume; arguments and errors as of `plan_windows`."""
        return plan_windows(depth, self.window, self.overlap, start)

    def _round(
        self,
        network: nn.Module,
        batch: Round,
        label_VDHW: Tensor,
        depth: int,
        volumes: Sequence[int],
        seed: int,
    ) -> Tensor:
        condition, known, position = self._conditions(batch, label_VDHW, depth)
        rows: list[Placed | None] = [None] * batch.rows
        for placed in batch.windows:
            rows[placed.row] = placed
        noise = NoiseStream(
            seed,
            [volumes[p.slot] if p else 0 for p in rows],
            STAGES["mcdpm"],
            [p.window.start if p else 0 for p in rows],
            condition.shape[1:],
            label_VDHW.device,
        )
        d = self.diffusion
        return sample(
            self.sampler,
            self._denoiser(network, condition, known, position),
            noise(0, "init"),
            d.schedule,
            select_timesteps(d.schedule.T, self.num_steps),
            noise=noise,
            prediction=d.sampled_prediction,
            overlap=KnownSlices(condition, known[:, :, None, None, None], resample=self.resample),
        )

    def _denoiser(
        self, network: nn.Module, condition: Tensor, known: Tensor, position: Tensor
    ) -> Denoiser:
        forward = AutocastInferer(self.precision)

        def denoise(
            x: Tensor, t: Tensor, condition: Tensor, known: Tensor, position: Tensor
        ) -> Tensor:
            output = forward(network_input(x, condition, known), network, t.float(), position)
            return self.diffusion.estimate(output)

        return classifier_free(
            denoise,
            {"condition": condition, "known": known, "position": position},
            {"known": torch.zeros_like(known)},
            {"known": self.guidance_scale},
        )

    def working_bytes(self, network: nn.Module, volumes: int) -> int:
        """Return the bytes that a step holds at its peak, beside the weights.

        Args:
            network: the denoiser.
            volumes: V, whose forward and backward windows run as one batch.
        """
        device, rows = next(network.parameters()).device, DIRECTIONS * volumes
        shape = (rows, self.window, self.diffusion.codec.channels, *self.size)

        def step() -> None:
            x = torch.zeros(shape, device=device)
            known = torch.zeros(shape[:2], dtype=torch.bool, device=device)
            denoiser = self._denoiser(network, x.clone(), known, x.new_zeros(rows, 2))
            denoiser(x, torch.zeros(rows, dtype=torch.long, device=device))

        return peak_bytes(step)

    def _conditions(
        self, batch: Round, label_VDHW: Tensor, depth: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return condition code (R,S,C,H,W), known (R,S) and position (R,2) of a round."""
        codec, device = self.diffusion.codec, label_VDHW.device
        shape = (batch.rows, self.window, codec.channels, *self.size)
        condition = torch.zeros(shape, device=device)
        known = torch.zeros(batch.rows, self.window, dtype=torch.bool, device=device)
        position = condition.new_zeros(batch.rows, 2)
        for row, slot, window in ((p.row, p.slot, p.window) for p in batch.windows):
            place = window.local(window.known)
            known_labels = label_VDHW[slot, window.known.start : window.known.stop]
            condition[row, place] = codec.encode(known_labels)
            known[row, place] = True
            position[row] = position.new_tensor([window.start / depth, 1 / depth])
        return condition, known, position
