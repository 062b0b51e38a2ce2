"""Patch discriminators on slices and on stacks of slices, at several image scales.

N images, C channels, H height, W width, T slices of a stack.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from common.errors import MedpairError

Judgement = list[list[Tensor]]
NORMS: dict[str, tuple[str, dict[str, bool]] | None] = {
    "none": None,
    "spectral": None,
    "instance": ("instance", {"affine": False}),
}
LEAK = 0.2


class MultiScaleDiscriminator(nn.Module):
    """One patch discriminator per image scale; every further scale sees a halved image.

    MONAI's `MultiScalePatchDiscriminator` makes its nets deeper instead of the images smaller,
    which needs 256 pixels and is not what Vid2Vid does; the patch net itself is MONAI's.

    Args:
        channels_in: channels of the judged image and its condition together.
        channels: filters of the first layer.
        num_scales: image scales.
        num_layers: layers per net after the first; the net halves the size that many times.
        norm: "none", "spectral" or "instance". Instance norm hides how strong texture is.

    Source: pix2pixHD (1711.11585) §3.2; Vid2Vid (1808.06601) §3.1.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int = 32,
        num_scales: int = 2,
        num_layers: int = 2,
        norm: str = "none",
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise MedpairError(f"d_norm is {norm!r}; want one of {sorted(NORMS)}")
        self.nets = nn.ModuleList(
            PatchDiscriminator(
                2, channels, channels_in, num_layers_d=num_layers, norm=NORMS[norm], bias=True
            )
            for _ in range(num_scales)
        )
        for module in list(self.nets.modules()):
            if isinstance(module, nn.Conv2d):
                # MONAI's initial 0.02 is for nets with batch norm; without, signals would vanish
                nn.init.kaiming_normal_(module.weight, a=LEAK)
                if norm == "spectral":
                    spectral_norm(module)

    def forward(self, x_NCHW: Tensor) -> Judgement:
        """Return for each scale the features of all layers; the last one are the patch logits."""
        judged = []
        for net in self.nets:
            judged.append(net(x_NCHW.contiguous(memory_format=torch.channels_last)))
            x_NCHW = F.avg_pool2d(x_NCHW, 3, stride=2, padding=1, count_include_pad=False)
        return judged


class Discriminators(nn.Module):
    """The image discriminator and one video discriminator per slice stride.

    The image discriminator sees a slice with its one-hot labels. The video discriminators see
    `frames` slices, each with its labels, `stride` slices apart.

    Args:
        num_classes: K.
        image_channels: C.
        frames: slices T of a stack.
        strides: slice strides of the video discriminators; () for none.
        channels, num_scales, num_layers, norm: see `MultiScaleDiscriminator`.
        detail: gain of an extra input, the image without its local mean; 0 for none. Blur is then
            plain to see, which else takes thousands of iterations to learn.

    Source: Vid2Vid (1808.06601) §3.1; the paper's video discriminator sees flows, ours labels.
    """

    def __init__(
        self,
        num_classes: int,
        image_channels: int = 1,
        frames: int = 3,
        strides: Sequence[int] = (1, 2),
        channels: int = 32,
        num_scales: int = 2,
        num_layers: int = 2,
        norm: str = "none",
        detail: float = 4.0,
    ) -> None:
        super().__init__()
        self.detail = detail
        self.num_classes, self.frames, self.strides = num_classes, frames, tuple(strides)
        options = (channels, num_scales, num_layers, norm)
        judged = num_classes + image_channels * (2 if detail else 1)
        self.image = MultiScaleDiscriminator(judged, *options)
        stacked = frames * judged
        self.video = nn.ModuleList(MultiScaleDiscriminator(stacked, *options) for _ in strides)

    def forward(self, image_BSCHW: Tensor, label_BSHW: Tensor) -> dict[str, Judgement]:
        """Judge sequences.

        Args:
            image_BSCHW: real or generated slices in [-1, 1], S slices per sequence.
            label_BSHW: their labels.

        Returns:
            Judgements by name: "image", and "video<stride>" where the sequence is long enough.
        """
        one_hot = F.one_hot(label_BSHW.long(), self.num_classes).movedim(-1, 2)
        parts = [one_hot.to(image_BSCHW), image_BSCHW]
        if self.detail:
            parts.append(self.detail * details(image_BSCHW))
        pair = torch.cat(parts, dim=2)
        judged = {"image": self.image(pair.flatten(0, 1))}
        for stride, net in zip(self.strides, self.video, strict=True):
            span = (self.frames - 1) * stride + 1
            if pair.shape[1] >= span:
                judged[f"video{stride}"] = net(stacks(pair, self.frames, stride))
        return judged


def details(image_BSCHW: Tensor) -> Tensor:
    """Return what a slice has beyond its mean over 3 x 3 pixels."""
    slices = image_BSCHW.flatten(0, 1)
    mean = F.avg_pool2d(slices, 3, stride=1, padding=1, count_include_pad=False)
    return (slices - mean).view_as(image_BSCHW)


def stacks(x_BSCHW: Tensor, frames: int, stride: int) -> Tensor:
    """Return all stacks of ``frames`` slices ``stride`` apart, as channels (N, T*C, H, W)."""
    span = (frames - 1) * stride + 1
    windows = x_BSCHW.unfold(1, span, 1)[..., ::stride]  # (B, S-span+1, C, H, W, T)
    return windows.movedim(-1, 2).flatten(0, 1).flatten(1, 2)
