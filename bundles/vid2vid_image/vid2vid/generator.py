"""The Vid2Vid slice generator: two encoders, one decoder, heads for texture and for motion.

B slices, L label slices in the window, P past images, C image channels, K classes, H, W size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import MedpairError
from common.networks.blocks import Downsample, ResBlock, Upsample, norm_groups, norm_silu
from common.networks.embedding import sinusoid, slice_positions
from common.networks.single import SingleInput, label_volumes
from vid2vid.warp import blend, warp

NORM_GROUPS = 4


class SliceOutput(NamedTuple):
    """What the generator returns for a batch of slices.

    Attributes:
        image: the new slice (B, C, H, W) in [-1, 1].
        raw: new texture alone (B, C, H, W) in [-1, 1].
        flow: displacement in pixels (B, 2, H, W), rows and columns.
        weight: share of the new texture (B, 1, H, W) in [0, 1]; 1 where there is no past.
    """

    image: Tensor
    raw: Tensor
    flow: Tensor
    weight: Tensor


class Encoder(nn.Module):
    """Stem and residual levels; returns the features of every level, finest first."""

    def __init__(
        self, channels_in: int, channels: Sequence[int], embedding: int, num_res_blocks: int
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels_in, channels[0], 3, padding=1)
        self.levels, self.downs = nn.ModuleList(), nn.ModuleList()
        width = channels[0]
        for level, c in enumerate(channels):
            self.downs.append(Downsample(width) if level else nn.Identity())
            self.levels.append(res_chain(width, c, embedding, num_res_blocks))
            width = c

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> list[Tensor]:
        """Return one feature map per level."""
        features = []
        x = self.stem(x_BCHW)
        for down, chain in zip(self.downs, self.levels, strict=True):
            x = run_chain(chain, down(x), emb_BE)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Residual levels from the coarsest features up to the second finest."""

    def __init__(self, channels: Sequence[int], embedding: int, num_res_blocks: int) -> None:
        super().__init__()
        self.middle = res_chain(channels[-1], channels[-1], embedding, 1)
        self.levels, self.ups = nn.ModuleList(), nn.ModuleList()
        width = channels[-1]
        for c in reversed(channels[1:-1]):
            self.ups.append(Upsample(width))
            self.levels.append(res_chain(width + c, c, embedding, num_res_blocks))
            width = c
        self.last_up = Upsample(width)

    def forward(self, features: list[Tensor], emb_BE: Tensor) -> Tensor:
        """Return features of the finest size, the finest encoder features joined."""
        x = run_chain(self.middle, features[-1], emb_BE)
        skips = features[:-1]
        for up, chain in zip(self.ups, self.levels, strict=True):
            skip = skips.pop()
            x = run_chain(chain, torch.cat([up(x, skip.shape[-2:]), skip], dim=1), emb_BE)
        return torch.cat([self.last_up(x, skips[0].shape[-2:]), skips[0]], dim=1)


class Head(nn.Module):
    """Last residual block and output convolution of one head."""

    def __init__(self, channels_in: int, channels: int, channels_out: int, embedding: int) -> None:
        super().__init__()
        self.res = ResBlock(channels_in, channels, embedding, groups=NORM_GROUPS)
        self.norm = nn.GroupNorm(norm_groups(channels, NORM_GROUPS), channels)
        self.conv = nn.Conv2d(channels, channels_out, 3, padding=1)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        """Return (B, channels_out, H, W)."""
        out: Tensor = self.conv(norm_silu(self.norm, self.res(x_BCHW, emb_BE)))
        return out


class SliceGenerator(SingleInput):
    """Generate the next slice from its label window and the images before it.

    Slices are in the order of travel: for the backward direction the caller mirrors the order.
    Labels and past images have an encoder each; the features are summed, the image features only
    where a past exists, so that the first slice is made from labels alone.

    Args:
        num_classes: K, labels and background.
        channels: channels per level, finest first, at least two levels.
        image_channels: C.
        past_labels: label slices before the current one in the window.
        ahead_labels: label slices after it (masks are known before images; 0 is the paper's).
        past_images: P images before the current one.
        embedding: width of the condition embedding.
        num_res_blocks: residual blocks per level.
        unshuffle: pixel-unshuffle factor of the stems (1 = none).
        max_flow: bound of the flow, pixels.
        position: condition on z/D and 1/D.
        style: None, or "medians": condition on one intensity per class.

    Source: MedGen3D §3.2; Vid2Vid (1808.06601) §3.2 and supplement (summed encoders, three heads).
    """

    called_per_step = True

    style_mean: Tensor
    style_factor: Tensor

    def __init__(
        self,
        num_classes: int,
        channels: Sequence[int] = (64, 96, 128),
        image_channels: int = 1,
        past_labels: int = 2,
        ahead_labels: int = 2,
        past_images: int = 2,
        embedding: int = 64,
        num_res_blocks: int = 1,
        unshuffle: int = 2,
        max_flow: float = 4.0,
        position: bool = True,
        style: str | None = None,
    ) -> None:
        super().__init__()
        if style not in (None, "medians"):
            raise MedpairError(f"style is {style!r}; want null or 'medians'; repair network_def")
        if len(channels) < 2:
            raise MedpairError(f"channels is {list(channels)}; want two or more in network_def")
        self.num_classes, self.image_channels = num_classes, image_channels
        self.past_labels, self.ahead_labels = past_labels, ahead_labels
        self.past_images, self.unshuffle, self.max_flow = past_images, unshuffle, max_flow
        self.position, self.style, self.embedding = position, style, embedding
        area, finest, blocks = unshuffle**2, channels[0], num_res_blocks
        self.condition = nn.Sequential(
            nn.Linear(2 * embedding + (num_classes if style else 0), embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )
        window = past_labels + 1 + ahead_labels
        images_in = past_images * (image_channels + 1)
        self.label_encoder = Encoder(window * num_classes * area, channels, embedding, blocks)
        self.image_encoder = Encoder(images_in * area, channels, embedding, blocks)
        self.decoder = Decoder(channels, embedding, blocks)
        joined = channels[1] + finest
        self.raw_head = Head(joined, finest, image_channels * area, embedding)
        self.motion_head = Head(joined, finest, 3 * area, embedding)
        # normal distribution of the styles seen in training, so that new ones can be drawn
        self.register_buffer("style_mean", torch.zeros(num_classes))
        self.register_buffer("style_factor", torch.zeros(num_classes, num_classes))

    def single(self, image: Tensor) -> Tensor:
        """Return images (B, C, D, H, W) of masks (B, 1, D, H, W): every slice as a first slice."""
        label = label_volumes(image, self.num_classes)
        volumes, depth, height, width = label.shape
        around = torch.arange(-self.past_labels, depth + self.ahead_labels).clamp(0, depth - 1)
        span = self.past_labels + 1 + self.ahead_labels
        windows = label[:, around].unfold(1, span, 1).movedim(-1, 2).flatten(0, 1)
        past = torch.zeros(
            (len(windows), self.past_images, self.image_channels, height, width),
            device=image.device,
        )
        none = torch.zeros(past.shape[:2], dtype=torch.bool, device=image.device)
        z = torch.arange(depth, device=image.device).repeat(volumes)
        made = self(windows, past, none, slice_positions(z, depth)).image
        return torch.unflatten(made, 0, (volumes, depth)).transpose(1, 2)

    def forward(
        self,
        label_BLHW: Tensor,
        past_BPCHW: Tensor | None = None,
        has_past_BP: Tensor | None = None,
        position_B2: Tensor | None = None,
        style_BK: Tensor | None = None,
    ) -> Any:
        """Generate one slice per sample.

        Args:
            label_BLHW: label window in the order of travel, the current slice at index
                `past_labels`; integers in 0..K-1.
            past_BPCHW: images before the current one in [-1, 1], nearest first.
            has_past_BP: bool, which of them exist; the values of the others are ignored.
            position_B2: z/D and 1/D of the current slice, z counted along D, not along the travel.
            style_BK: median intensity of each class in [-1, 1]; None is the training mean.

        Returns:
            The new slices and their parts, `SliceOutput`, float32. For the first tensor alone:
            see `single`.

        Raises:
            MedpairError: if the label window or the past has another length than the network.
        """
        if past_BPCHW is None or has_past_BP is None or position_B2 is None:
            return self.single(label_BLHW)
        self._check(label_BLHW, past_BPCHW)
        emb = self._embed(position_B2, style_BK)
        height, width = label_BLHW.shape[-2:]
        exists = has_past_BP[:, :, None, None, None].to(past_BPCHW)
        past = torch.cat([past_BPCHW * exists, exists.expand(-1, -1, 1, height, width)], dim=2)
        one_hot = F.one_hot(label_BLHW.long(), self.num_classes).movedim(-1, 2)
        labels = self._fold(one_hot.to(past_BPCHW).flatten(1, 2))
        features = self.label_encoder(labels, emb)
        any_past = has_past_BP.any(dim=1)[:, None, None, None]
        moving = self.image_encoder(self._fold(past.flatten(1, 2)), emb)
        features = [a + b * any_past.to(b) for a, b in zip(features, moving, strict=True)]
        decoded = self.decoder(features, emb)
        raw = self._unfold(self.raw_head(decoded, emb), height, width).tanh()
        motion = self._unfold(self.motion_head(decoded, emb), height, width)
        return self._compose(raw, motion, past_BPCHW[:, 0], has_past_BP[:, 0])

    def _compose(
        self, raw: Tensor, motion: Tensor, previous: Tensor, exists: Tensor
    ) -> SliceOutput:
        flow = self.max_flow * motion[:, :2].tanh()
        weight = motion[:, 2:].sigmoid()
        # no previous slice: nothing to warp, new texture only
        weight = torch.where(exists[:, None, None, None], weight, torch.ones_like(weight))
        return SliceOutput(blend(raw, warp(previous, flow), weight), raw, flow, weight)

    def _embed(self, position_B2: Tensor, style_BK: Tensor | None) -> Tensor:
        scale = 1000.0 if self.position else 0.0
        parts = [sinusoid(scale * column, self.embedding) for column in position_B2.unbind(1)]
        if self.style:
            mean = self.style_mean.expand(len(position_B2), -1)
            parts.append(mean if style_BK is None else style_BK)
        embedded: Tensor = self.condition(torch.cat(parts, dim=1))
        return embedded

    def _fold(self, x_BCHW: Tensor) -> Tensor:
        """Pad to a multiple of the unshuffle factor and fold pixels into channels."""
        pad = [-n % self.unshuffle for n in (x_BCHW.shape[-1], x_BCHW.shape[-2])]
        if any(pad):
            x_BCHW = F.pad(x_BCHW, (0, pad[0], 0, pad[1]), mode="replicate")
        folded = F.pixel_unshuffle(x_BCHW, self.unshuffle)
        return folded.contiguous(memory_format=torch.channels_last)

    def _unfold(self, x_BCHW: Tensor, height: int, width: int) -> Tensor:
        return F.pixel_shuffle(x_BCHW, self.unshuffle)[..., :height, :width].float()

    def _check(self, label_BLHW: Tensor, past_BPCHW: Tensor) -> None:
        window = self.past_labels + 1 + self.ahead_labels
        if label_BLHW.shape[1] != window:
            raise MedpairError(
                f"label window has {label_BLHW.shape[1]} slices; want {window} "
                "(past_labels + 1 + ahead_labels of network_def)"
            )
        if past_BPCHW.shape[1:3] != (self.past_images, self.image_channels):
            raise MedpairError(
                f"past images have (number, channels) {tuple(past_BPCHW.shape[1:3])}; want "
                f"{(self.past_images, self.image_channels)} as network_def says"
            )


def res_chain(channels_in: int, channels: int, embedding: int, length: int) -> nn.ModuleList:
    """Return ``length`` residual blocks, the first from ``channels_in`` to ``channels``."""
    widths = [channels_in] + [channels] * length
    return nn.ModuleList(ResBlock(a, b, embedding, groups=NORM_GROUPS) for a, b in pairwise(widths))


def run_chain(chain: nn.Module, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
    """Run residual blocks one after the other."""
    assert isinstance(chain, nn.ModuleList)
    for block in chain:
        x_BCHW = block(x_BCHW, emb_BE)
    return x_BCHW
