"""Small random changes of a training sequence: in-plane affine, mirror image, intensity.

All are shared along the volume, so neighbouring slices keep fitting each other. Slices are
resampled in their plane only and with cubic interpolation: linear or through-plane resampling
would teach the generator to blur.

S slices, C channels, H height, W width. Random draws stand apart from applying them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class AugmentRanges:
    """Ranges and probabilities of the random changes; zeros switch a change off.

    Args:
        mirror: probability of a left/right mirror image (labels exchanged by the schema).
        affine: probability of an in-plane affine map.
        rotate: largest rotation, degrees.
        scale: largest relative scaling per axis (0.05 = +-5 %).
        shift: largest translation, as a share of the slice size.
        jitter: largest relative change of gain and gamma; wants a style-conditioned generator.
    """

    mirror: float = 0.5
    affine: float = 0.5
    rotate: float = 6.0
    scale: float = 0.06
    shift: float = 0.03
    jitter: float = 0.0


@dataclass(frozen=True)
class Change:
    """A drawn change: mirror or not, affine (2, 3) or None, gain and gamma."""

    mirror: bool
    affine: Tensor | None
    gain: float
    gamma: float


def draw_change(ranges: AugmentRanges, generator: torch.Generator) -> Change:
    """Draw one change; always the same number of random values, whatever the ranges."""
    u = torch.rand(9, generator=generator).tolist()
    s = [2 * value - 1 for value in u]
    affine = None
    if u[1] < ranges.affine:
        turn = math.radians(ranges.rotate) * s[2]
        matrix = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        matrix = matrix * (1 + ranges.scale * torch.tensor([s[3], s[4]]))
        shift = 2 * ranges.shift * torch.tensor([[s[5]], [s[6]]])
        affine = torch.cat([matrix, shift], dim=1)
    gain, gamma = 1 + ranges.jitter * s[7], 1 + ranges.jitter * s[8]
    return Change(u[0] < ranges.mirror, affine, gain, gamma)


def change_labels(label_SHW: Tensor, change: Change, flip_lut: Tensor, num_classes: int) -> Tensor:
    """Return changed labels (S, H, W) uint8.

    Args:
        label_SHW: uint8 labels.
        change: the drawn change.
        flip_lut: (K,) label after a left/right mirror image.
        num_classes: K.
    """
    if change.mirror:
        label_SHW = flip_lut[label_SHW.long()].flip(-1)
    if change.affine is None:
        return label_SHW
    one_hot = F.one_hot(label_SHW.long(), num_classes).movedim(-1, 1).float()
    return _resample(one_hot, change.affine, "bilinear").argmax(dim=1).to(torch.uint8)


def change_images(image_SCHW: Tensor, change: Change) -> Tensor:
    """Return changed images (S, C, H, W); input and result in [-1, 1]."""
    if change.mirror:
        image_SCHW = image_SCHW.flip(-1)
    if change.affine is not None:
        image_SCHW = _resample(image_SCHW, change.affine, "bicubic").clamp(-1, 1)
    return change_values(image_SCHW, change)


def change_values(intensity: Tensor, change: Change) -> Tensor:
    """Return intensities in [-1, 1] after the drawn gain and gamma."""
    if change.gain == 1 and change.gamma == 1:
        return intensity
    return (change.gain * ((intensity + 1) / 2) ** change.gamma).clamp(0, 1) * 2 - 1


def change_flow(flow_S2HW: Tensor, change: Change) -> Tensor:
    """Return the flow between changed slices, in pixels, order rows and columns."""
    if change.mirror:
        flow_S2HW = flow_S2HW.flip(-1) * torch.tensor([1.0, -1.0])[:, None, None]
    if change.affine is None:
        return flow_S2HW
    moved = _resample(flow_S2HW, change.affine, "bilinear")
    # new(p) = old(A p): a displacement f of the old slices is A^-1 f between the new ones
    inverse = torch.linalg.inv(change.affine[:, :2])
    return torch.einsum("ij,sjhw->sihw", inverse, moved.flip(1)).flip(1)


def change_confidence(weight_S1HW: Tensor, change: Change) -> Tensor:
    """Return the confidence of a reference flow between changed slices."""
    if change.mirror:
        weight_S1HW = weight_S1HW.flip(-1)
    if change.affine is None:
        return weight_S1HW
    return _resample(weight_S1HW, change.affine, "bilinear")


def _resample(x_SCHW: Tensor, affine: Tensor, mode: str) -> Tensor:
    height, width = x_SCHW.shape[-2:]
    # the affine map turns in pixels, the sampling grid is in half sizes
    ratio = torch.tensor([[1.0, height / width, 1.0], [width / height, 1.0, 1.0]])
    theta = (affine * ratio).to(x_SCHW.device).expand(len(x_SCHW), -1, -1)
    grid = F.affine_grid(theta, list(x_SCHW.shape), align_corners=False)
    return F.grid_sample(x_SCHW, grid, mode=mode, padding_mode="border", align_corners=False)
