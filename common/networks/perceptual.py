"""MONAI's perceptual loss with weights from a file; none are downloaded."""

from __future__ import annotations

from pathlib import Path

from monai.losses import PerceptualLoss
from torch import nn

from common.errors import MedpairError


def perceptual_loss(path: str | None) -> nn.Module:
    """Return MONAI's perceptual loss with ResNet-50 weights from a file.

    Args:
        path: state dict of torchvision's ResNet-50.

    Raises:
        MedpairError: if no existing file is given.
    """
    if path is None or not Path(path).is_file():
        raise MedpairError(
            f"perceptual_weights is {path!r}; want a file with a ResNet-50 state dict, or set the "
            "weight of the perceptual loss to 0"
        )
    loss: nn.Module = PerceptualLoss(
        2, network_type="resnet50", pretrained=True, pretrained_path=path
    )
    return loss.requires_grad_(False)
