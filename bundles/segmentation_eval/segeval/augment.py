"""Random changes of a scan and its mask: mirror image, deformation, intensity, noise, blur.

K classes, D, H, W volume size. Random draws stand apart from applying them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from monai.networks.layers import GaussianFilter
from torch import Tensor
from torch.nn import functional as F

from common.data.augment import Warp, WarpRanges, draw_warp, warp_grid


@dataclass(frozen=True)
class AugmentRanges:
    """Ranges and probabilities of the random changes; zeros switch a change off.

    Args:
        flip: probability of a left/right mirror image (labels exchanged by the schema).
        warp: probability of a deformation within `ranges`.
        ranges: of the deformation (rotation, scale, shift, elastic).
        intensity: probability of each intensity change below.
        gain: largest relative change of contrast.
        offset: largest change of brightness, of images in [0, 1].
        gamma: largest |log| of the exponent.
        noise: largest standard deviation of added noise, of images in [0, 1].
        blur: largest standard deviation of a Gaussian blur, voxels.
    """

    flip: float = 0.5
    warp: float = 0.8
    ranges: WarpRanges = field(default_factory=WarpRanges)
    intensity: float = 0.3
    gain: float = 0.15
    offset: float = 0.05
    gamma: float = 0.3
    noise: float = 0.05
    blur: float = 0.7


@dataclass(frozen=True)
class Change:
    """A drawn change; 1, 0, 1, 0, 0 leave gain, offset, gamma, noise and blur alone."""

    flip: bool
    warp: Warp | None
    gain: float
    offset: float
    gamma: float
    noise: float
    blur: float


def draw_change(ranges: AugmentRanges, generator: torch.Generator) -> Change:
    """Draw one change; always the same number of random values, whatever the ranges."""
    u = torch.rand(12, generator=generator).tolist()
    warp = draw_warp(ranges.ranges, generator)
    on = [float(value < ranges.intensity) for value in u[2:7]]
    signed = [2 * value - 1 for value in u[7:12]]
    return Change(
        flip=u[0] < ranges.flip,
        warp=warp if u[1] < ranges.warp else None,
        gain=1 + on[0] * ranges.gain * signed[0],
        offset=on[1] * ranges.offset * signed[1],
        gamma=math.exp(on[2] * ranges.gamma * signed[2]),
        noise=on[3] * ranges.noise * abs(signed[3]),
        blur=on[4] * ranges.blur * abs(signed[4]),
    )


def change_shape(
    image_DHW: Tensor, label_DHW: Tensor, change: Change, flip_lut: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return image and mask after mirror image and deformation.

    Args:
        image_DHW: float32; resampled linearly.
        label_DHW: uint8; class scores are resampled linearly, then the largest wins.
        change: the drawn change.
        flip_lut: (K,) label after a left/right mirror image; W must run left-right.
        num_classes: K.
    """
    if change.flip:
        image_DHW, label_DHW = image_DHW.flip(-1), flip_lut[label_DHW.long()].flip(-1)
    if change.warp is None:
        return image_DHW, label_DHW
    depth, height, width = image_DHW.shape
    grid = warp_grid(change.warp, (depth, height, width), range(depth))
    one_hot = F.one_hot(label_DHW.long(), num_classes).movedim(-1, 0)
    both = torch.cat([image_DHW[None], one_hot.float()])[None]
    moved = F.grid_sample(both, grid[None], padding_mode="border", align_corners=True)[0]
    return moved[0], moved[1:].argmax(dim=0).to(torch.uint8)


def change_values(image_DHW: Tensor, change: Change, generator: torch.Generator) -> Tensor:
    """Return intensities in [0, 1] after blur, gamma, gain, offset and noise.

    Args:
        image_DHW: float32 in [0, 1].
        change: the drawn change.
        generator: source of the noise.
    """
    if change.blur > 0:
        image_DHW = GaussianFilter(3, change.blur)(image_DHW[None, None])[0, 0]
    image_DHW = change.gain * image_DHW.clamp(0, 1) ** change.gamma + change.offset
    if change.noise > 0:
        image_DHW = image_DHW + change.noise * torch.randn(image_DHW.shape, generator=generator)
    return image_DHW.clamp(0, 1)
