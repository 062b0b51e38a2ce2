"""A U-Net for slices or, with slice layers, for windows of slices ((2+1)D).

N = B * S slices of B windows with S slices each, C channels, E embedding width, H height, W width,
K channels of a context token, M mask channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from common.errors import MedpairError
from common.networks.blocks import (
    CrossAttention,
    Downsample,
    PseudoConv2d,
    ResBlock,
    SliceAttention,
    SliceConv,
    SpatialAttention,
    Upsample,
    norm_groups,
    norm_silu,
    zero_init,
)
from common.networks.spade import SpadeResBlock


@dataclass(frozen=True)
class StageOptions:
    """What the stages of a U-Net share.

    Args:
        embedding: width E of the condition embedding.
        slice_layers: slice convolution and slice attention after every residual block.
        pseudo3d: a slice convolution after every convolution, slice attention after every
            spatial attention.
        context_channels: K; cross-attention to a context after every spatial attention.
        mask_hidden: channels inside the SPADE branches, where there are any.
        dropout: drop probability in the residual blocks.
        checkpointing: the backward pass computes the stages again instead of keeping what they
            saw: far less memory for a third more time.
    """

    embedding: int
    slice_layers: bool = False
    pseudo3d: bool = False
    context_channels: int | None = None
    mask_hidden: int = 64
    dropout: float = 0.0
    checkpointing: bool = False


class Stage(nn.Module):
    """Residual block, then what the level asks for: slice convolution, attentions."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        options: StageOptions,
        *,
        attention: bool,
        mask_channels: int | None = None,
    ) -> None:
        super().__init__()
        o, width = options, channels_out
        self.checkpointing = o.checkpointing
        self.res: ResBlock | SpadeResBlock
        if mask_channels is None:
            self.res = ResBlock(channels_in, width, o.embedding, o.dropout, pseudo3d=o.pseudo3d)
        else:
            sizes = (channels_in, width, o.embedding, mask_channels, o.mask_hidden)
            self.res = SpadeResBlock(*sizes, dropout=o.dropout, pseudo3d=o.pseudo3d)
        crossed = attention and o.context_channels is not None
        self.slice_conv = SliceConv(width) if o.slice_layers else None
        self.attention = SpatialAttention(width) if attention else None
        self.cross = CrossAttention(width, o.context_channels or 0) if crossed else None
        across = o.slice_layers or (o.pseudo3d and attention)
        self.slice_attention = SliceAttention(width) if across else None

    def forward(
        self,
        x_NCHW: Tensor,
        emb_NE: Tensor,
        slices: int,
        context_NLK: Tensor | None = None,
        mask_NMHW: Tensor | None = None,
    ) -> Tensor:
        """Return (N, channels_out, H, W)."""
        inputs = (x_NCHW, emb_NE, slices, context_NLK, mask_NMHW)
        if self.checkpointing and torch.is_grad_enabled():
            found: Tensor = checkpoint(self._forward, *inputs, use_reentrant=False)
            return found
        return self._forward(*inputs)

    def _forward(
        self,
        x_NCHW: Tensor,
        emb_NE: Tensor,
        slices: int,
        context_NLK: Tensor | None,
        mask_NMHW: Tensor | None,
    ) -> Tensor:
        if isinstance(self.res, SpadeResBlock):
            assert mask_NMHW is not None
            mask = F.interpolate(mask_NMHW, size=x_NCHW.shape[-2:], mode="nearest")
            x: Tensor = self.res(x_NCHW, emb_NE, *self.res.modulations(mask), slices)
        else:
            x = self.res(x_NCHW, emb_NE, slices)
        if self.slice_conv is not None:
            x = self.slice_conv(x, slices)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross is not None:
            assert context_NLK is not None
            x = self.cross(x, context_NLK)
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


class UNetEncoder(nn.Module):
    """The first half of a U-Net: stem, downward path and middle.

    Args:
        channels_in: input channels per slice.
        channels: channels of each level, finest first.
        options: what the stages share.
        num_res_blocks: residual blocks per level.
        attention_levels: for each level, whether it has spatial attention; the middle always has.
        unshuffle: pixel-unshuffle factor of the stem (1 = none); saves computation.
        mask_channels: M; SPADE in the middle.
    """

    def __init__(
        self,
        channels_in: int,
        channels: Sequence[int],
        options: StageOptions,
        num_res_blocks: int = 1,
        attention_levels: Sequence[bool] | None = None,
        unshuffle: int = 1,
        mask_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        attend = list(attention_levels or [False] * len(channels))
        pseudo3d = options.pseudo3d
        self.stem = PseudoConv2d(channels_in * unshuffle**2, channels[0], pseudo3d=pseudo3d)
        self.down = nn.ModuleList()
        self.skip_channels, width = [channels[0]], channels[0]
        for level, c in enumerate(channels):
            for _ in range(num_res_blocks):
                self.down.append(Stage(width, c, options, attention=attend[level]))
                width = c
                self.skip_channels.append(width)
            if level < len(channels) - 1:
                self.down.append(Downsample(width, pseudo3d))
                self.skip_channels.append(width)
        self.middle = nn.ModuleList(
            Stage(width, width, options, attention=attention, mask_channels=mask_channels)
            for attention in (True, False)
        )

    def encode(
        self,
        x_NCHW: Tensor,
        emb_NE: Tensor,
        slices: int = 1,
        context_NLK: Tensor | None = None,
        mask_NMHW: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the skips, finest first, and the output of the middle as the last entry.

        Raises:
            MedpairError: if the slices' size is no multiple of ``unshuffle``.
        """
        height, width = x_NCHW.shape[-2:]
        if height % self.unshuffle or width % self.unshuffle:
            raise MedpairError(
                f"slices of {height}x{width}, wanted multiples of {self.unshuffle}; "
                "change size or network_def#unshuffle"
            )
        x = self.stem(F.pixel_unshuffle(x_NCHW, self.unshuffle), slices)
        found = [x]
        for layer in self.down:
            if isinstance(layer, Downsample):
                x = layer(x, slices)
            else:
                x = layer(x, emb_NE, slices, context_NLK)
            found.append(x)
        for layer in self.middle:
            x = layer(x, emb_NE, slices, context_NLK, mask_NMHW)
        return [*found, x]


class UNet(UNetEncoder):
    """Time-conditioned U-Net; with slice layers it also mixes the slices of a window.

    Args:
        channels_in: input channels per slice.
        channels_out: output channels per slice.
        channels: channels of each level, finest first.
        embedding: width E of the condition embedding.
        num_res_blocks: residual blocks per level.
        attention_levels: for each level, whether it has spatial attention.
        slice_layers: slice convolution and slice attention after every residual block (identity
            at the start).
        unshuffle: pixel-unshuffle factor of the stem (1 = none); saves computation.
        dropout: drop probability in the residual blocks.
        pseudo3d: a slice convolution after every convolution and slice attention after every
            spatial attention, as published (identity at the start).
        context_channels: K; cross-attention to a context after every spatial attention.
        mask_channels: M; SPADE in the middle and the upward path.
        mask_hidden: channels inside the SPADE branches.
        checkpointing: see `StageOptions`.

    Source: U-Net of DDPM (2006.11239) with the slice layers of GEM-3D §3.1.
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
        pseudo3d: bool = False,
        context_channels: int | None = None,
        mask_channels: int | None = None,
        mask_hidden: int = 64,
        checkpointing: bool = False,
    ) -> None:
        options = StageOptions(
            embedding, slice_layers, pseudo3d, context_channels, mask_hidden, dropout, checkpointing
        )
        super().__init__(
            channels_in,
            channels,
            options,
            num_res_blocks,
            attention_levels,
            unshuffle,
            mask_channels,
        )
        attend = list(attention_levels or [False] * len(channels))
        self.up = nn.ModuleList()
        skips, width = list(self.skip_channels), channels[-1]
        for level in reversed(range(len(channels))):
            for _ in range(num_res_blocks + 1):
                self.up.append(
                    Stage(
                        width + skips.pop(),
                        channels[level],
                        options,
                        attention=attend[level],
                        mask_channels=mask_channels,
                    )
                )
                width = channels[level]
            if level > 0:
                self.up.append(Upsample(width, pseudo3d))
        self.norm = nn.GroupNorm(norm_groups(width), width)
        self._build_head(channels_in, channels_out, width, pseudo3d)

    def _build_head(self, channels_in: int, channels_out: int, width: int, pseudo3d: bool) -> None:
        self.tail: nn.Module | None = None
        if self.unshuffle == 1:
            self.head = PseudoConv2d(width, channels_out, pseudo3d=pseudo3d)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
            return
        area = self.unshuffle**2
        fine = max(1, 2 * width // area)
        self.head = PseudoConv2d(width, fine * area, pseudo3d=pseudo3d)
        self.tail = FineTail(fine + channels_in, fine, channels_out)

    def forward(
        self,
        x_NCHW: Tensor,
        emb_NE: Tensor,
        slices: int = 1,
        context_NLK: Tensor | None = None,
        mask_NMHW: Tensor | None = None,
        control: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return the network output.

        Args:
            x_NCHW: slices (N, channels_in, H, W); H and W multiples of ``unshuffle``.
            emb_NE: condition embedding of each slice (N, E).
            slices: number S of slices per window; N is a multiple of it.
            context_NLK: L context tokens per slice, where the network has cross-attention.
            mask_NMHW: masks, where the network has SPADE.
            control: what a control branch adds to the skips and the middle, as `encode` orders
                them; empty for none.

        Returns:
            (N, channels_out, H, W).
        """
        found = self.encode(x_NCHW, emb_NE, slices, context_NLK, mask_NMHW)
        if control:
            found = [a + b for a, b in zip(found, control, strict=True)]
        *skips, x = found
        for layer in self.up:
            if isinstance(layer, Upsample):
                x = layer(x, skips[-1].shape[-2:], slices)
            else:
                joined = torch.cat([x, skips.pop()], dim=1)
                x = layer(joined, emb_NE, slices, context_NLK, mask_NMHW)
        y: Tensor = self.head(norm_silu(self.norm, x), slices)
        if self.tail is not None:
            y = self.tail(torch.cat([F.pixel_shuffle(y, self.unshuffle), x_NCHW], dim=1))
        return y
