"""What the volume network is fed and asked for in training.

B windows, S slices per window, C latent channels, M mask channels, h, w latent size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.diffusion.schedules import (
    NoiseSchedule,
    Prediction,
    add_noise,
    draw_timesteps,
    training_target,
)
from common.engines.batches import iteration_generator, moved, noise_like
from common.errors import MedpairError
from gem3d.conditions import MaskEncoding

Times = Literal["slice", "window"]


@dataclass(frozen=True)
class VolumeDiffusion:
    """The diffusion of latent slices and windows.

    Args:
        schedule: noise schedule.
        prediction: what the network puts out: "eps" (paper), "v" or "x0".
        times: "slice": every slice has its own time step (stage 1); "window": all slices of a
            window share one (stage 2).
        low_noise: draw t with density proportional to 2T - t, as the released code does in stage
            2; else by ``noise_emphasis``.
        noise_emphasis: exponent k > 0; t is drawn with density proportional to t^(k-1), so k > 1
            trains the high noise levels, at which brightness and layout are decided, more often
            (paper: 1).
        mask_dropout: share of the windows without a mask alone, for guidance (paper: 0).
        informed_dropout: share without an informed slice alone (paper: 0).
        both_dropout: share without both (paper: 0).

    Raises:
        MedpairError: for shares outside [0, 1] or another kind of times.

    Source: GEM-3D §3.1, eq. 1.
    """

    schedule: NoiseSchedule
    prediction: Prediction = "v"
    times: Times = "window"
    low_noise: bool = False
    noise_emphasis: float = 1.0
    mask_dropout: float = 0.1
    informed_dropout: float = 0.1
    both_dropout: float = 0.05

    def __post_init__(self) -> None:
        shares = (self.mask_dropout, self.informed_dropout, self.both_dropout)
        if min(shares) < 0 or sum(shares) > 1:
            raise MedpairError(
                f"mask_dropout, informed_dropout, both_dropout: {shares}; want shares >= 0 with "
                "a sum <= 1"
            )
        if self.noise_emphasis <= 0:
            raise MedpairError(f"noise_emphasis: {self.noise_emphasis}; want > 0; 1 is uniform")
        if self.times not in ("slice", "window"):
            raise MedpairError(f"times: {self.times!r}; want 'slice' or 'window'")

    def draw_times(self, windows: int, slices: int, generator: torch.Generator) -> Tensor:
        """Return time steps (B, S), int64 in 0..T-1."""
        count = slices if self.times == "slice" else 1
        T = self.schedule.T
        if self.low_noise:
            weight = 2 * T - torch.arange(T, dtype=torch.float64)
            drawn = torch.multinomial(weight, windows * count, True, generator=generator)
            return drawn.view(windows, count).expand(-1, slices)
        drawn = draw_timesteps(T, windows * count, self.noise_emphasis, generator)
        return drawn.view(windows, count).expand(-1, slices)

    def draw_kept(self, windows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return which windows keep their mask and their informed slice, (B,) bool each."""
        u = torch.rand(windows, generator=generator)
        both = self.both_dropout
        mask, informed = both + self.mask_dropout, both + self.mask_dropout + self.informed_dropout
        return u >= mask, (u >= informed) | ((u >= both) & (u < mask))


@dataclass(frozen=True)
class PrepareWindowBatch:
    """Make network input and target from a batch of windows, for MONAI's engines.

    Args:
        diffusion: time steps, noise and target.
        encoding: masks on the latent grid.
    """

    diffusion: VolumeDiffusion
    encoding: MaskEncoding

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: torch.device | str | None,
        non_blocking: bool,
        **_: Any,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...], dict[str, Any]]:
        """Return x_t, target with weights, further arguments and keyword arguments.

        The last channel of the target is its weight: 0 for slices that are given clean.
        """
        batch = moved(batchdata, device, non_blocking)  # masks and noise are made there
        d, x_0, known = self.diffusion, batch["latent"], batch["known"]
        windows, slices = x_0.shape[:2]
        generator = iteration_generator(int(batchdata["seed"]) + 1, int(batchdata["iteration"]))
        t = d.draw_times(windows, slices, generator).to(x_0.device)
        mask_kept, informed_kept = (x.to(x_0.device) for x in d.draw_kept(windows, generator))
        eps = noise_like(x_0, generator)
        flat = t.flatten()
        x_t = add_noise(d.schedule, x_0.flatten(0, 1), eps.flatten(0, 1), flat).view_as(x_0)
        target = training_target(
            d.schedule, x_0.flatten(0, 1), eps.flatten(0, 1), flat, d.prediction
        ).view_as(x_0)
        given = known[:, :, None, None, None]
        x_t = torch.where(given, x_0, x_t)
        weight = (~given).expand(-1, -1, 1, *x_0.shape[-2:]).to(target)
        mask = self.encoding(batch["label"])
        mask = mask * mask_kept[:, None, None, None, None].to(mask)
        informed = batch["informed"] * informed_kept[:, None, None, None]
        conditions = (t.float(), mask, informed, batch["offset"], batch["position"], known)
        return x_t, torch.cat([target, weight], dim=2), conditions, {}


class WindowLoss(nn.Module):
    """Mean squared error over the slices that the network has to make.

    Source: GEM-3D, eq. 1 (DDPM, 2006.11239, eq. 14).
    """

    def forward(self, prediction_BSChw: Tensor, target_BSDhw: Tensor) -> Tensor:
        """Return the scalar loss; the target's last channel is its weight."""
        target, weight = target_BSDhw[:, :, :-1], target_BSDhw[:, :, -1:]
        error = (prediction_BSChw - target).square().mean(dim=2, keepdim=True)
        return (error * weight).sum() / weight.sum().clamp(min=1)
