"""Backward warping of slices by a flow field, and the blend of warped and new texture.

B slices, C image channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(image_BCHW: Tensor, flow_B2HW: Tensor) -> Tensor:
    """Read an image at positions moved by a flow field, linearly; borders are replicated.

    MONAI's `Warp` caches its grid in the type and on the device of the first call, which autocast
    breaks, so the grid is made here.

    Args:
        image_BCHW: image, any range.
        flow_B2HW: displacement in pixels, order (rows, columns): new(p) = image(p + flow).

    Returns:
        (B, C, H, W) float32; equal to the image where the flow is zero.
    """
    height, width = image_BCHW.shape[-2:]
    device = image_BCHW.device
    rows = torch.arange(height, device=device)[:, None] + flow_B2HW[:, 0].float()
    columns = torch.arange(width, device=device)[None, :] + flow_B2HW[:, 1].float()
    # half-pixel convention: a size of one pixel stays defined
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    # grid_sample's backward pass crashes on NaN; the loss shows it instead and stops the training
    grid = grid.nan_to_num(0.0).clamp(-2, 2)
    with torch.autocast(image_BCHW.device.type, enabled=False):
        return F.grid_sample(image_BCHW.float(), grid, padding_mode="border", align_corners=False)


def blend(raw_BCHW: Tensor, warped_BCHW: Tensor, weight_B1HW: Tensor) -> Tensor:
    """Return weight * raw + (1 - weight) * warped; weight in [0, 1].

    Source: MedGen3D §3.2; Vid2Vid (1808.06601) eq. 4.
    """
    return weight_B1HW * raw_BCHW + (1 - weight_B1HW) * warped_BCHW
