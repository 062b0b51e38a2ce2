"""The semantic diffusion network of a slice: a U-Net whose decoder sees the mask through SPADE.

N slices, C image channels, K classes, M mask channels, E embedding width, H height, W width.
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
    SpatialAttention,
    Upsample,
    norm_groups,
    norm_silu,
    zero_init,
)
from common.networks.embedding import ConditionEmbedding
from common.networks.spade import SpadeResBlock
from common.networks.unet import FineTail

NORM_GROUPS = 4

Modulations = list[Tensor]


class EncoderLayer(nn.Module):
    """Residual block and, where asked for, attention; the mask plays no part."""

    def __init__(
        self, channels_in: int, channels_out: int, embedding: int, attention: bool, dropout: float
    ) -> None:
        super().__init__()
        self.res = ResBlock(channels_in, channels_out, embedding, dropout, groups=NORM_GROUPS)
        self.attention = SpatialAttention(channels_out) if attention else nn.Identity()

    def forward(self, x_NCHW: Tensor, emb_NE: Tensor) -> Tensor:
        """Return (N, channels_out, H, W)."""
        out: Tensor = self.attention(self.res(x_NCHW, emb_NE))
        return out


class DecoderLayer(nn.Module):
    """SPADE residual block and, where asked for, attention."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        mask_channels: int,
        hidden: int,
        attention: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.res = SpadeResBlock(
            channels_in, channels_out, embedding, mask_channels, hidden, dropout
        )
        self.attention = SpatialAttention(channels_out) if attention else nn.Identity()

    def forward(self, x_NCHW: Tensor, emb_NE: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return (N, channels_out, H, W) for the modulations of the two norms."""
        out: Tensor = self.attention(self.res(x_NCHW, emb_NE, first, second))
        return out


class SemanticDenoiser(nn.Module):
    """Predict the noise (or v, x_0) of slices under a mask.

    The noisy slice goes through the encoder; the mask enters by SPADE alone, in the middle block
    and in every decoder block.

    Args:
        mask_channels: M, one per class and mask slice in the window.
        image_channels: C.
        channels: channels per level, finest first.
        embedding: width E of the condition embedding.
        num_res_blocks: residual blocks per level (decoder: one more).
        attention_levels: for each level, whether it has attention; the middle block always has.
        mask_hidden: channels inside the SPADE branches (paper: 128).
        unshuffle: pixel-unshuffle factor of the stem, 1 for none (paper).
        views: views that share the weights; more than one adds a view embedding.
        position: condition on k/n and 1/n of slice k of n (paper: no).
        learned_sigma: put out C more channels, the logits of the variance.
        dropout: drop probability in the residual blocks.

    Raises:
        MedpairError: if attention_levels and channels differ in length.

    Source: MedGen3D §3.2; Wang et al., SDM (2207.00050), §3.2.
    """

    called_per_step = True
    graphs = False  # its modulations are large, and joint trajectories keep outputs

    def __init__(
        self,
        mask_channels: int,
        image_channels: int = 1,
        channels: Sequence[int] = (64, 96, 128),
        embedding: int = 128,
        num_res_blocks: int = 1,
        attention_levels: Sequence[bool] | None = None,
        mask_hidden: int = 64,
        unshuffle: int = 1,
        views: int = 1,
        position: bool = True,
        learned_sigma: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        attend = list(attention_levels or [False] * len(channels))
        if len(attend) != len(channels):
            raise MedpairError(
                f"attention_levels has {len(attend)} entries; want {len(channels)}, one per level "
                "of channels; repair network_def"
            )
        self.levels, self.unshuffle, self.position = len(channels), unshuffle, position
        self.stride: int = unshuffle * 2 ** (self.levels - 1)
        masks, area = mask_channels * unshuffle**2, unshuffle**2
        self.embed = ConditionEmbedding(embedding // 2, embedding, num_scalars=2 * position)
        self.view_embedding = nn.Embedding(views, embedding) if views > 1 else None
        self.stem = nn.Conv2d(image_channels * area, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()

        def decoder_layer(c_in: int, c_out: int, attention: bool) -> DecoderLayer:
            return DecoderLayer(c_in, c_out, embedding, masks, mask_hidden, attention, dropout)

        skips, width = [channels[0]], channels[0]
        for level, c in enumerate(channels):
            for _ in range(num_res_blocks):
                self.down.append(EncoderLayer(width, c, embedding, attend[level], dropout))
                width = c
                skips.append(width)
            if level < self.levels - 1:
                self.down.append(Downsample(width))
                skips.append(width)
        self.middle = nn.ModuleList(
            [decoder_layer(width, width, True), decoder_layer(width, width, False)]
        )
        for level in reversed(range(self.levels)):
            for _ in range(num_res_blocks + 1):
                c = channels[level]
                self.up.append(decoder_layer(width + skips.pop(), c, attend[level]))
                width = c
            if level > 0:
                self.up.append(Upsample(width))
        self.norm = nn.GroupNorm(norm_groups(width, NORM_GROUPS), width)
        self._build_head(width, image_channels, image_channels * (1 + learned_sigma))

    def _build_head(self, width: int, channels_in: int, channels_out: int) -> None:
        self.tail: nn.Module | None = None
        if self.unshuffle == 1:
            self.head = zero_init(nn.Conv2d(width, channels_out, 3, padding=1))
            return
        area = self.unshuffle**2
        fine = max(1, 2 * width // area)
        self.head = nn.Conv2d(width, fine * area, 3, padding=1)
        self.tail = FineTail(fine + channels_in, fine, channels_out)

    def modulations(self, mask_NMHW: Tensor) -> Modulations:
        """Return the modulations of all SPADE norms, in the order in which they are used.

        Args:
            mask_NMHW: one-hot masks, H and W multiples of ``stride``; all-zero for "no mask".

        Returns:
            One (N, 2C, h, w) per norm. They do not depend on the time step.
        """
        sizes = [F.pixel_unshuffle(mask_NMHW, self.unshuffle)]
        for _ in range(self.levels - 1):
            sizes.append(F.interpolate(sizes[-1], scale_factor=0.5, mode="nearest"))
        found: Modulations = []
        for layer in [*self.middle, *self.up]:
            if isinstance(layer, DecoderLayer):
                found += layer.res.modulations(sizes[-1])
            else:
                sizes.pop()
        return found

    def forward(
        self,
        x_NCHW: Tensor,
        timesteps_N: Tensor,
        modulations: Modulations,
        position_N2: Tensor,
        view: int = 0,
    ) -> Tensor:
        """Return the prediction of each slice.

        Args:
            x_NCHW: noisy slices; H and W multiples of ``stride``.
            timesteps_N: time steps in [0, T).
            modulations: what `modulations` returns for the masks.
            position_N2: k/n and 1/n of each slice.
            view: number of the view, where the weights are shared.

        Returns:
            (N, C, H, W), or (N, 2C, H, W) with learned sigma: prediction, then variance logits.
        """
        emb = self.embed(timesteps_N, position_N2 if self.position else None)
        if self.view_embedding is not None:
            emb = emb + self.view_embedding.weight[view]
        folded = F.pixel_unshuffle(x_NCHW, self.unshuffle)
        x = self.stem(folded.contiguous(memory_format=torch.channels_last))
        skips, maps = [x], iter(modulations)
        for layer in self.down:
            x = layer(x) if isinstance(layer, Downsample) else layer(x, emb)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, emb, next(maps), next(maps))
        for layer in self.up:
            if isinstance(layer, Upsample):
                x = layer(x, skips[-1].shape[-2:])
            else:
                x = layer(torch.cat([x, skips.pop()], dim=1), emb, next(maps), next(maps))
        y: Tensor = self.head(norm_silu(self.norm, x))
        if self.tail is not None:
            y = self.tail(torch.cat([F.pixel_shuffle(y, self.unshuffle), x_NCHW.to(y)], dim=1))
        return y
