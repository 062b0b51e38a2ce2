"""Codes that turn label slices into network channels and back.

L = leading axes, K classes, H height, W width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import MedpairError


class LabelCodec(Protocol):
    """What a label code offers: its channel count, encoding, scores and decoding."""

    channels: int

    def encode(self, label_LHW: Tensor) -> Tensor:
        """Return the code (L, channels, H, W), float32 in [-1, 1]."""

    def scores(self, code_LCHW: Tensor) -> Tensor:
        """Return one score per class (L, K, H, W); the largest marks the decoded class."""

    def decode(self, code_LCHW: Tensor) -> Tensor:
        """Return labels (L, H, W), uint8."""


class OneHotCodec:
    """One channel per class, -1 or 1; decoded by the largest channel.

    Source: methods of brainSPADE and SDM; the default here, as it cannot create in-between labels.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = self.channels = num_classes

    def encode(self, label_LHW: Tensor) -> Tensor:
        """Return the code (L, K, H, W)."""
        one_hot = F.one_hot(label_LHW.long(), self.num_classes).movedim(-1, -3)
        return one_hot.float() * 2 - 1

    def scores(self, code_LCHW: Tensor) -> Tensor:
        """Return the code itself: a channel is its class's score."""
        return code_LCHW

    def decode(self, code_LCHW: Tensor) -> Tensor:
        """Return the class of the largest channel."""
        return code_LCHW.argmax(dim=-3).to(torch.uint8)


class ScalarCodec:
    """Evenly spaced levels in [-1, 1] in one channel; decoded by the nearest level.

    Source: MedGen3D §3.1 (one discrete value per organ in a single volume).
    """

    channels = 1

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def encode(self, label_LHW: Tensor) -> Tensor:
        """Return the levels (L, 1, H, W)."""
        return (label_LHW.float() * (2 / (self.num_classes - 1)) - 1).unsqueeze(-3)

    def scores(self, code_LCHW: Tensor) -> Tensor:
        """Return minus the distance to each class's level."""
        levels = torch.linspace(-1, 1, self.num_classes, device=code_LCHW.device)
        return -(code_LCHW - levels[:, None, None]).abs()

    def decode(self, code_LCHW: Tensor) -> Tensor:
        """Return the class of the nearest level."""
        return self.scores(code_LCHW).argmax(dim=-3).to(torch.uint8)


def build_codec(name: str, num_classes: int) -> LabelCodec:
    """Return the label code called ``name`` ("one_hot" or "scalar") for K classes.

    Raises:
        MedpairError: for another name.
    """
    codecs: dict[str, type[OneHotCodec | ScalarCodec]] = {
        "one_hot": OneHotCodec,
        "scalar": ScalarCodec,
    }
    if name not in codecs:
        raise MedpairError(f"label_code is {name!r}; use one of {sorted(codecs)} in the config")
    return codecs[name](num_classes)
