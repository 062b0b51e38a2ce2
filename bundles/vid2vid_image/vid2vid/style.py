"""The style of a volume: the median intensity of each label.

D, C, H, W volume; K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def label_medians(image_DCHW: Tensor, label_DHW: Tensor, num_classes: int) -> Tensor:
    """Return the median intensity of each class over all channels, (K,); -1 where it is absent."""
    gray = image_DCHW.mean(dim=1)
    medians = [gray[label_DHW == k] for k in range(num_classes)]
    return torch.stack([m.median() if m.numel() else torch.tensor(-1.0) for m in medians])


def fit_styles(style_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (K,) and Cholesky-like factor (K, K) of a normal distribution of styles."""
    mean = style_NK.mean(dim=0)
    centred = (style_NK - mean) / max(len(style_NK) - 1, 1) ** 0.5
    # factor of the covariance for any rank: centred^T = Q R  ->  R^T R = covariance
    _, factor = torch.linalg.qr(centred, mode="r")
    padded = torch.zeros(style_NK.shape[1], style_NK.shape[1])
    padded[: len(factor)] = factor[: style_NK.shape[1]]
    return mean, padded
