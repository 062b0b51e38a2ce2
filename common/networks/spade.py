"""Spatially adaptive normalisation (SPADE): the mask scales and shifts the features.

N slices, C channels, M mask channels, E embedding width, H height, W width. A modulation is a
(N, 2C, H, W) tensor of scales and shifts. It depends on the mask alone, not on the time step, so
it can be computed once per slice and kept over all steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.kernels import Modulation, modulated_norm
from common.networks.blocks import PseudoConv2d, norm_groups


class Spade(nn.Module):
    """Group normalisation whose scale and shift are maps made from the mask.

    Args:
        channels: feature channels C.
        mask_channels: mask channels M.
        hidden: channels between the two mask convolutions (paper: 128).
        groups: normalisation groups (paper: 32).

    Source: Park et al., SPADE (1903.07291), eq. 1, with the group normalisation of Wang et al.,
    SDM (2207.00050), §3.2.
    """

    def __init__(self, channels: int, mask_channels: int, hidden: int, groups: int = 4) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups(channels, groups), channels, affine=False)
        self.shared = nn.Conv2d(mask_channels, hidden, 3, padding=1)
        self.maps = nn.Conv2d(hidden, 2 * channels, 3, padding=1)

    def modulation(self, mask_NMHW: Tensor) -> Tensor:
        """Return scales 1 + gamma and shifts beta, (N, 2C, H, W), of mask (N, M, H, W)."""
        gamma, beta = self.maps(F.relu(self.shared(mask_NMHW))).chunk(2, dim=1)
        maps = torch.cat([1 + gamma, beta], dim=1)
        return maps.contiguous(memory_format=torch.channels_last)

    def forward(
        self,
        x_NCHW: Tensor,
        modulation: Tensor,
        then: Modulation | None = None,
        silu: bool = False,
    ) -> Tensor:
        """Return the normalised features times the scales plus the shifts.

        Args:
            x_NCHW: features.
            modulation: scales and shifts, (N, 2C, H, W).
            then: scale and shift that follow, (N, C, 1, 1) each.
            silu: end with SiLU.
        """
        scale, shift = modulation.chunk(2, dim=1)
        pairs = [(scale, shift)] if then is None else [(scale, shift), then]
        return modulated_norm(
            x_NCHW, self.norm.num_groups, pairs, eps=self.norm.eps, silu=silu, in_scale_type=True
        )


class SpadeResBlock(nn.Module):
    """Residual block with two SPADE norms; the second is also scaled and shifted by the time.

    Args:
        channels_in: input channels.
        channels_out: output channels.
        embedding: width E of the time embedding.
        mask_channels: mask channels M.
        hidden: channels inside the SPADE branches.
        dropout: drop probability before the second convolution.
        pseudo3d: each 3x3 convolution is followed by one along the slices.

    Source: Wang et al., SDM (2207.00050), §3.2 and fig. 3c.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        mask_channels: int,
        hidden: int,
        dropout: float = 0.0,
        pseudo3d: bool = False,
    ) -> None:
        super().__init__()
        self.norm_in = Spade(channels_in, mask_channels, hidden)
        self.conv_in = PseudoConv2d(channels_in, channels_out, pseudo3d=pseudo3d)
        self.modulate = nn.Linear(embedding, 2 * channels_out)
        self.norm_out = Spade(channels_out, mask_channels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = PseudoConv2d(channels_out, channels_out, pseudo3d=pseudo3d)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]
        self.skip = (
            nn.Conv2d(channels_in, channels_out, 1)
            if channels_in != channels_out
            else nn.Identity()
        )

    def modulations(self, mask_NMHW: Tensor) -> list[Tensor]:
        """Return the modulations of both norms."""
        return [self.norm_in.modulation(mask_NMHW), self.norm_out.modulation(mask_NMHW)]

    def forward(
        self, x_NCHW: Tensor, emb_NE: Tensor, first: Tensor, second: Tensor, slices: int = 1
    ) -> Tensor:
        """Return (N, channels_out, H, W) for the modulations of the first and second norm."""
        h = self.conv_in(self.norm_in(x_NCHW, first, silu=True), slices)
        scale, shift = self.modulate(F.silu(emb_NE))[:, :, None, None].chunk(2, dim=1)
        h = self.norm_out(h, second, (1 + scale, shift), silu=True)
        residual: Tensor = self.conv_out(self.dropout(h), slices)
        skipped: Tensor = self.skip(x_NCHW)
        return residual + skipped
