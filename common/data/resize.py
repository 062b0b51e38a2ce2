"""In-plane resizing of label volumes by class scores.

D slices, K classes, H height, W width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resize_scores(scores_DKHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Return labels (D, *size), uint8: class scores are resized linearly, then the largest wins.

    Nearest neighbours would leave stairs that an image network follows.
    """
    if tuple(scores_DKHW.shape[-2:]) != tuple(size):
        scores_DKHW = F.interpolate(
            scores_DKHW, size=size, mode="bilinear", align_corners=False, antialias=True
        )
    return scores_DKHW.argmax(dim=1).byte()


def resize_labels(label_DHW: Tensor, size: tuple[int, int], num_classes: int) -> Tensor:
    """Return labels (D, *size), uint8, resized by their class fractions."""
    if tuple(label_DHW.shape[-2:]) == tuple(size):
        return label_DHW
    one_hot = F.one_hot(label_DHW.long(), num_classes).movedim(-1, 1).float()
    return resize_scores(one_hot, size)
