"""Building blocks of the diffusion U-Nets: residual, attention and slice layers.

N = B * S slices of B windows with S slices each, C channels, E embedding width, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.kernels import group_norm_silu, modulated_norm


def norm_groups(channels: int, wanted: int = 8) -> int:
    """Return the largest number of groups <= ``wanted`` that divides ``channels``."""
    return max(g for g in range(1, min(wanted, channels) + 1) if channels % g == 0)


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return SiLU of a group normalisation, fused where the kernels run."""
    return group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def zero_init(module: nn.Module) -> nn.Module:
    """Set all parameters of a layer to zero, so that a residual branch starts as identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class SliceConv(nn.Module):
    """One-dimensional convolution along the slices, identity at initialisation.

    Source: GEM-3D §3.1 (pseudo-3D layers); Make-A-Video (2209.14792) §3.2.1.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)
        nn.init.dirac_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x_NCHW: Tensor, slices: int) -> Tensor:
        """Return (N, C, H, W) after mixing the ``slices`` slices of each window."""
        n, c, h, w = x_NCHW.shape
        line = x_NCHW.view(n // slices, slices, c, h * w).permute(0, 3, 2, 1)
        mixed: Tensor = self.conv(line.reshape(-1, c, slices))
        line = mixed.view(-1, h * w, c, slices)
        return line.permute(0, 3, 2, 1).reshape(n, c, h, w)


class PseudoConv2d(nn.Conv2d):
    """A convolution of slices that, with ``pseudo3d``, a convolution along the slices follows.

    Args:
        channels_in: input channels.
        channels_out: output channels.
        kernel: side of the kernel; the size of the slices is kept at stride 1.
        stride: step in plane.
        pseudo3d: add the convolution along the slices, identity at initialisation.

    Source: GEM-3D §3.1; Make-A-Video (2209.14792) §3.2.1.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        stride: int = 1,
        pseudo3d: bool = False,
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2)
        self.along = SliceConv(channels_out) if pseudo3d else None

    def forward(self, x_NCHW: Tensor, slices: int = 1) -> Tensor:
        """Return (N, channels_out, H', W') for windows of ``slices`` slices."""
        y = super().forward(x_NCHW)
        return y if self.along is None else self.along(y, slices)


class ResBlock(nn.Module):
    """Residual block whose second norm is scaled and shifted by the condition embedding.

    Args:
        channels_in: input channels.
        channels_out: output channels.
        embedding: width E of the condition embedding.
        dropout: drop probability before the second convolution.
        groups: normalisation groups; bf16 channels-last is fast with 16 n channels per group.
        pseudo3d: each 3x3 convolution is followed by one along the slices.

    Source: Dhariwal and Nichol 2021 (2105.05233), adaptive group normalisation.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        dropout: float = 0.0,
        groups: int = 8,
        pseudo3d: bool = False,
    ) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(norm_groups(channels_in, groups), channels_in)
        self.conv_in = PseudoConv2d(channels_in, channels_out, pseudo3d=pseudo3d)
        self.modulate = nn.Linear(embedding, 2 * channels_out)
        self.norm_out = nn.GroupNorm(norm_groups(channels_out, groups), channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = PseudoConv2d(channels_out, channels_out, pseudo3d=pseudo3d)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]
        self.skip = (
            nn.Conv2d(channels_in, channels_out, 1)
            if channels_in != channels_out
            else nn.Identity()
        )

    def forward(self, x_NCHW: Tensor, emb_NE: Tensor, slices: int = 1) -> Tensor:
        """Return the block's output (N, channels_out, H, W)."""
        h = self.conv_in(norm_silu(self.norm_in, x_NCHW), slices)
        scale, shift = self.modulate(F.silu(emb_NE))[:, :, None, None].chunk(2, dim=1)
        norm = self.norm_out
        pairs = [(1 + scale, shift)]
        h = modulated_norm(h, norm.num_groups, pairs, norm.weight, norm.bias, norm.eps, silu=True)
        residual: Tensor = self.conv_out(self.dropout(h), slices)
        skipped: Tensor = self.skip(x_NCHW)
        return residual + skipped


class Attention(nn.Module):
    """Multi-head self-attention over tokens with a zero-initialised output projection.

    Args:
        channels: channels C of a token.
        head_channels: channels per head; C must be a multiple of it, else one head is used.

    Source: Dhariwal and Nichol 2021 (2105.05233) §3.
    """

    def __init__(self, channels: int, head_channels: int = 32) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels) if channels % head_channels == 0 else 1
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def attend(self, tokens_BLC: Tensor) -> Tensor:
        """Return tokens (B, L, C) plus their attention update."""
        b, length, c = tokens_BLC.shape
        qkv = self.qkv(self.norm(tokens_BLC)).view(b, length, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, length, c)
        update: Tensor = self.out(attended)
        return tokens_BLC + update


class SpatialAttention(Attention):
    """Self-attention over the pixels of each slice."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return slices (N, C, H, W) after attention inside each slice."""
        h, w = x_NCHW.shape[-2:]
        tokens = self.attend(x_NCHW.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(*x_NCHW.shape[:2], h, w)


class CrossAttention(nn.Module):
    """Attention of the pixels of each slice to the tokens of a context, zero at initialisation.

    Args:
        channels: channels C of a pixel.
        context_channels: channels K of a context token.
        head_channels: channels per head; C must be a multiple of it, else one head is used.

    Source: Rombach et al. (2112.10752), §3.3.
    """

    def __init__(self, channels: int, context_channels: int, head_channels: int = 32) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels) if channels % head_channels == 0 else 1
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(context_channels, 2 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x_NCHW: Tensor, context_NLK: Tensor) -> Tensor:
        """Return slices (N, C, H, W) plus what they read from their contexts (N, L, K)."""
        n, c, h, w = x_NCHW.shape
        tokens = x_NCHW.flatten(2).transpose(1, 2)
        q = self._split(self.query(self.norm(tokens)))
        k, v = map(self._split, self.key_value(context_NLK).chunk(2, dim=-1))
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        update: Tensor = self.out(read)
        return x_NCHW + update.transpose(1, 2).reshape(n, c, h, w)

    def _split(self, tokens: Tensor) -> Tensor:
        n, length, c = tokens.shape
        return tokens.view(n, length, self.heads, c // self.heads).transpose(1, 2)


class SliceAttention(Attention):
    """Self-attention along the slices, separately at each pixel; starts as identity."""

    def forward(self, x_NCHW: Tensor, slices: int) -> Tensor:
        """Return (N, C, H, W) after attention over the ``slices`` slices of each window."""
        n, c, h, w = x_NCHW.shape
        tokens = x_NCHW.view(n // slices, slices, c, h * w).permute(0, 3, 1, 2)
        tokens = self.attend(tokens.reshape(-1, slices, c))
        return tokens.view(-1, h * w, slices, c).permute(0, 2, 3, 1).reshape(n, c, h, w)


class Downsample(nn.Module):
    """Halve height and width by a strided convolution."""

    def __init__(self, channels: int, pseudo3d: bool = False) -> None:
        super().__init__()
        self.conv = PseudoConv2d(channels, channels, stride=2, pseudo3d=pseudo3d)

    def forward(self, x_NCHW: Tensor, slices: int = 1) -> Tensor:
        """Return (N, C, ceil(H/2), ceil(W/2))."""
        halved: Tensor = self.conv(x_NCHW, slices)
        return halved


class Upsample(nn.Module):
    """Enlarge to a given height and width by nearest neighbours and a convolution."""

    def __init__(self, channels: int, pseudo3d: bool = False) -> None:
        super().__init__()
        self.conv = PseudoConv2d(channels, channels, pseudo3d=pseudo3d)

    def forward(self, x_NCHW: Tensor, size: torch.Size, slices: int = 1) -> Tensor:
        """Return (N, C, *size)."""
        enlarged: Tensor = self.conv(F.interpolate(x_NCHW, size=size, mode="nearest"), slices)
        return enlarged
