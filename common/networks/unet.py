"""A U-Net for slices or, with slice layers, for windows of slices ((2+1)D).

N = B * S slices of B windows with S slices each, C channels, E embedding width, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import MedpairError
from common.networks.blocks import (
    Downsample,
    ResBlock,
    SliceAttention,
    SliceConv,
    SpatialAttention,
    Upsample,
    norm_groups,
    zero_init,
)


class Stage(nn.Module):
    """Residual block, then what the level asks for: slice convolution, attentions."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        *,
        attention: bool,
        slice_layers: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.res = ResBlock(channels_in, channels_out, embedding, dropout)
        self.slice_conv = SliceConv(channels_out) if slice_layers else None
        self.attention = SpatialAttention(channels_out) if attention else None
        self.slice_attention = SliceAttention(channels_out) if slice_layers else None

    def forward(self, x_NCHW: Tensor, emb_NE: Tensor, slices: int) -> Tensor:
        """Return (N, channels_out, H, W)."""
        x: Tensor = self.res(x_NCHW, emb_NE)
        if self.slice_conv is not None:
            x = self.slice_conv(x, slices)
        if self.attention is not None:
            x = self.attention(x)
        if self.slice_attention is not None:
            x = self.slice_attention(x, slices)
        return x


class FineTail(nn.Sequential):
    """Two convolutions at full resolution that see the input again.

    The pixel-unshuffled trunk is narrower than its input; without this path the noise of single
    pixels could not be told from the signal.
    """

    def __init__(self, channels_in: int, channels: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels, 3, padding=1),
            nn.SiLU(),
            zero_init(nn.Conv2d(channels, channels_out, 3, padding=1)),
        )


class UNet(nn.Module):
    """Time-conditioned U-Net; with ``slice_layers`` it also mixes the slices of a window.

    Args:
        channels_in: input channels per slice.
        channels_out: output channels per slice.
        channels: channels of each level, finest first.
        embedding: width E of the condition embedding.
        num_res_blocks: residual blocks per level.
        attention_levels: for each level, whether it has spatial attention.
        slice_layers: add slice convolution and slice attention (identity at the start).
        unshuffle: pixel-unshuffle factor of the stem (1 = none); saves computation.
        dropout: drop probability in the residual blocks.

    Source: U-Net of DDPM (2006.11239) with slice layers of GEM-3D §3.1.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        channels: Sequence[int],
        embedding: int,
        num_res_blocks: int = 1,
        attention_levels: Sequence[bool] | None = None,
        slice_layers: bool = False,
        unshuffle: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        attend = list(attention_levels or [False] * len(channels))
        area = unshuffle * unshuffle

        def stage(c_in: int, c_out: int, attention: bool) -> Stage:
            return Stage(
                c_in,
                c_out,
                embedding,
                attention=attention,
                slice_layers=slice_layers,
                dropout=dropout,
            )

        self.stem = nn.Conv2d(channels_in * area, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [channels[0]], channels[0]
        for level, c in enumerate(channels):
            for _ in range(num_res_blocks):
                self.down.append(stage(width, c, attend[level]))
                width = c
                skips.append(width)
            if level < len(channels) - 1:
                self.down.append(Downsample(width))
                skips.append(width)
        self.middle = nn.ModuleList([stage(width, width, True), stage(width, width, False)])
        for level in reversed(range(len(channels))):
            for _ in range(num_res_blocks + 1):
                self.up.append(stage(width + skips.pop(), channels[level], attend[level]))
                width = channels[level]
            if level > 0:
                self.up.append(Upsample(width))
        self.norm = nn.GroupNorm(norm_groups(width), width)
        self.tail: nn.Module | None = None
        if unshuffle == 1:
            self.head = zero_init(nn.Conv2d(width, channels_out, 3, padding=1))
        else:
            fine = max(1, 2 * width // area)
            self.head = nn.Conv2d(width, fine * area, 3, padding=1)
            self.tail = FineTail(fine + channels_in, fine, channels_out)

    def forward(self, x_NCHW: Tensor, emb_NE: Tensor, slices: int = 1) -> Tensor:
        """Return the network output.

        Args:
            x_NCHW: slices (N, channels_in, H, W); H and W multiples of ``unshuffle``.
            emb_NE: condition embedding of each slice (N, E).
            slices: number S of slices per window; N is a multiple of it.

        Returns:
            (N, channels_out, H, W).
        """
        height, width = x_NCHW.shape[-2:]
        if height % self.unshuffle or width % self.unshuffle:
            raise MedpairError(
                f"slices of {height}x{width}, wanted multiples of {self.unshuffle}; "
                "change size or network_def#unshuffle"
            )
        x = self.stem(F.pixel_unshuffle(x_NCHW, self.unshuffle))
        skips = [x]
        for layer in self.down:
            x = layer(x) if isinstance(layer, Downsample) else layer(x, emb_NE, slices)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, emb_NE, slices)
        for layer in self.up:
            if isinstance(layer, Upsample):
                x = layer(x, skips[-1].shape[-2:])
            else:
                x = layer(torch.cat([x, skips.pop()], dim=1), emb_NE, slices)
        y: Tensor = self.head(F.silu(self.norm(x)))
        if self.tail is not None:
            y = self.tail(torch.cat([F.pixel_shuffle(y, self.unshuffle), x_NCHW], dim=1))
        return y
