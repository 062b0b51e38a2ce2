"""The slice autoencoder: MONAI's `AutoencoderKL` with latents of unit spread.

N slices, C latent channels, H, W slice size, h, w latent size H / f, W / f.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn

from common.errors import MedpairError
from common.networks.blocks import norm_groups
from common.networks.monai_unet import built

FLATTEST = 1e-3
PIXELS = 2**20
"""Of the slices that are encoded at once, which bounds the memory."""


class SliceAutoencoder(nn.Module):
    """Encode slices of one channel to latents and decode them.

    The latents that leave `encode` have mean 0 and standard deviation 1 per channel on the
    training data, once `fit_scale` has seen them; both numbers are stored with the weights.

    Args:
        channels: channels per level, finest first; each further level halves height and width.
        latent_channels: C.
        num_res_blocks: residual blocks per level.
        options: further arguments of MONAI's class, for weights that were trained with them,
            such as ``norm_num_groups`` and ``with_encoder_nonlocal_attn``.

    Raises:
        MedpairError: unless the slices shrink by 4 or 8, as in latent diffusion.

    Source: GEM-3D §3.1 (z = E(x)); Rombach et al. (2112.10752), §3.1 and appendix G.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 64),
        latent_channels: int = 8,
        num_res_blocks: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if len(channels) not in (3, 4):
            raise MedpairError(
                f"autoencoder channels: {len(channels)} levels, wanted 3 (factor 4) or 4 (factor "
                "8); repair autoencoder_def"
            )
        self.factor = 2 ** (len(channels) - 1)
        self.latent_channels = latent_channels
        plain: dict[str, Any] = {
            "attention_levels": [False] * len(channels),
            "norm_num_groups": min(norm_groups(width) for width in channels),
            "with_encoder_nonlocal_attn": False,
            "with_decoder_nonlocal_attn": False,
        }
        self.network = built(
            AutoencoderKL,
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            num_res_blocks=[num_res_blocks] * len(channels),
            channels=channels,
            latent_channels=latent_channels,
            **plain | dict(options or {}),
        )
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def forward(self, image_N1HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstruction, mean and standard deviation of the unscaled posterior."""
        mean, std = self.network.encode(image_N1HW)
        return self.network.decode(self.network.sampling(mean, std)), mean, std

    def encode(self, image_N1HW: Tensor) -> Tensor:
        """Return the scaled mode of the posterior, (N, C, h, w).

        Args:
            image_N1HW: slices in [-1, 1]; H and W multiples of ``factor``.
        """
        height, width = image_N1HW.shape[-2:]
        if height % self.factor or width % self.factor:
            raise MedpairError(
                f"slices of {height}x{width}, wanted multiples of {self.factor}; pad them or "
                "prepare another size"
            )
        mean: Tensor = self.network.encode(image_N1HW)[0].float()
        return (mean - _maps(self.latent_mean)) / _maps(self.latent_std)

    def decode(self, z_NChw: Tensor) -> Tensor:
        """Return slices (N, 1, H, W), clamped to [-1, 1], of scaled latents."""
        raw = z_NChw * _maps(self.latent_std) + _maps(self.latent_mean)
        image: Tensor = self.network.decode(raw)
        return image.float().clamp(-1, 1)

    @torch.no_grad()
    def fit_scale(self, image_N1HW: Tensor) -> None:
        """Set mean and standard deviation of the latents from training slices.

        Source: Rombach et al. (2112.10752), appendix G, per channel.
        """
        parts = in_parts(image_N1HW)
        mean = torch.cat([self.network.encode(part)[0].float() for part in parts])
        self.latent_mean.copy_(mean.mean(dim=(0, 2, 3)))
        self.latent_std.copy_(mean.std(dim=(0, 2, 3)).clamp(min=FLATTEST))


def in_parts(image_N1HW: Tensor) -> tuple[Tensor, ...]:
    """Return the slices in parts that are encoded at once."""
    slices = max(1, PIXELS // image_N1HW[0].numel())
    parts: tuple[Tensor, ...] = image_N1HW.split(slices)
    return parts


def _maps(values_C: Tensor) -> Tensor:
    return values_C[None, :, None, None]
