"""Forward passes of a U-Net for volumes of any size.

V volumes, C channels, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from common.engines.inferers import AutocastInferer
from common.errors import MedpairError


class PaddedInferer(AutocastInferer):
    """Pad with zeros to what the network's strides divide, and crop what it returns.

    Args:
        multiple: product of the network's strides, voxels.
        precision: "auto", "bf16", "fp16" or "fp32".
    """

    def __init__(self, multiple: int, precision: str = "auto") -> None:
        super().__init__(precision)
        if multiple < 1:
            raise MedpairError(f"multiple is {multiple}; want the product of the strides, >= 1")
        self.multiple = multiple

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return ``network(inputs)`` (V, C, D, H, W), float32.

        Args:
            inputs: (V, 1, D, H, W), float32.
            network: gives logits on the grid of its input.
            *args: passed on to the network.
            **kwargs: passed on to the network.
        """
        depth, height, width = inputs.shape[-3:]
        ends = [pad for n in (width, height, depth) for pad in (0, -n % self.multiple)]
        output = super().__call__(F.pad(inputs, ends), network, *args, **kwargs)
        return output[..., :depth, :height, :width]
