"""Conditional 3D latent diffusion, a baseline: all slices' latents at once, without windows.

B samples, C latent channels, M mask channels, N = M or M + C + 2 condition channels,
D, H, W volume size, h, w latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from common.diffusion.schedules import (
    NoiseSchedule,
    Prediction,
    add_noise,
    training_target,
)
from common.engines.batches import iteration_generator
from common.networks.blocks import norm_groups
from gem3d.autoencoder import SliceAutoencoder
from gem3d.baseline_data import pad_to_strides
from gem3d.conditions import MaskEncoding
from gem3d.model import take_scale


class LatentVolumeDenoiser(nn.Module):
    """MONAI's 3D diffusion U-Net on latent volumes, the conditions beside them.

    Args:
        latent_channels: C.
        mask_channels: M.
        informed: the conditions show a true slice's latents too.
        channels: channels per level, finest first; each further level halves D, h and w.
        attention_levels: for each level, whether it has attention; the middle always has.
        num_res_blocks: residual blocks per level.
        head_channels: channels per attention head; divides those of levels with attention.

    Source: Rombach et al. (2112.10752), §3.3 (concatenation), in three dimensions; Pinaya et al.
    (2209.07162).
    """

    latent_std: Tensor

    def __init__(
        self,
        latent_channels: int,
        mask_channels: int,
        informed: bool = False,
        channels: Sequence[int] = (32, 80),
        attention_levels: Sequence[bool] = (False, True),
        num_res_blocks: int = 1,
        head_channels: int = 16,
    ) -> None:
        super().__init__()
        self.latent_channels, self.informed = latent_channels, informed
        self.stride = 2 ** (len(channels) - 1)
        self.unet = DiffusionModelUNet(
            3,
            latent_channels + mask_channels + (latent_channels + 2) * informed,
            latent_channels,
            num_res_blocks=num_res_blocks,
            channels=channels,
            attention_levels=attention_levels,
            norm_num_groups=min(norm_groups(width) for width in channels),
            num_head_channels=head_channels,
        )
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def condition(self, mask_BDMhw: Tensor, informed_BNDhw: Tensor | None) -> Tensor:
        """Return the conditions (B, N, D, h, w).

        Args:
            mask_BDMhw: from `MaskEncoding`.
            informed_BNDhw: see `LatentVolumeBatches`; zeros for none; read where ``informed``.
        """
        mask = mask_BDMhw.transpose(1, 2)
        if not self.informed:
            return mask
        assert informed_BNDhw is not None
        return torch.cat([mask, informed_BNDhw.to(mask)], dim=1)

    def forward(self, x_BCDhw: Tensor, timesteps_B: Tensor, condition_BNDhw: Tensor) -> Tensor:
        """Return the prediction (B, C, D, h, w); any size.

        Args:
            x_BCDhw: noisy latents.
            timesteps_B: time steps in [0, T).
            condition_BNDhw: from `condition`.
        """
        depth, height, width = x_BCDhw.shape[-3:]
        seen = torch.cat([x_BCDhw, condition_BNDhw.to(x_BCDhw)], dim=1)
        out: Tensor = self.unet(pad_to_strides(seen, (self.stride,) * 3), timesteps_B)
        return out[..., :depth, :height, :width]


def on_latent_volumes(
    network: LatentVolumeDenoiser, autoencoder: SliceAutoencoder, device: str | torch.device
) -> LatentVolumeDenoiser:
    """Return a network to be trained on the autoencoder's latents; it remembers their scale.

    Raises:
        MedpairError: if the two have different latent channels.
    """
    take_scale(network, autoencoder)
    return network.to(device)


@dataclass(frozen=True)
class PrepareLatentBatch:
    """Make network input and target from a batch of latent volumes, for MONAI's engines.

    Args:
        network: whose conditions these are.
        encoding: masks on the latent grid.
        schedule: noise schedule.
        prediction: what the network puts out: "v", "eps" or "x0".
        informed_dropout: share of the volumes trained without an informed slice, for a network
            that can do without; it is told by the channel "present".

    Source: DDPM (2006.11239), algorithm 1.
    """

    network: LatentVolumeDenoiser
    encoding: MaskEncoding
    schedule: NoiseSchedule
    prediction: Prediction = "v"
    informed_dropout: float = 0.0

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: torch.device | str | None,
        non_blocking: bool,
        **_: Any,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], dict[str, Any]]:
        """Return x_t, the target, (time steps, conditions) and no keyword arguments."""
        generator = iteration_generator(int(batchdata["seed"]) + 1, int(batchdata["iteration"]))
        x_0 = batchdata["latent"]
        t = torch.randint(self.schedule.T, (len(x_0),), generator=generator)
        eps = torch.randn(x_0.shape, generator=generator)
        kept = torch.rand(len(x_0), generator=generator) >= self.informed_dropout
        x_t = add_noise(self.schedule, x_0, eps, t)
        target = training_target(self.schedule, x_0, eps, t, self.prediction)
        informed = batchdata["informed"] * kept[:, None, None, None, None]
        x_t, target, t, informed, label = (
            value.to(device, non_blocking=non_blocking)
            for value in (x_t, target, t, informed, batchdata["label"])
        )
        condition = self.network.condition(self.encoding(label), informed)
        return x_t, target, (t, condition), {}
