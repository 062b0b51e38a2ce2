"""Forward passes of a network for volumes of any size.

V volumes, C channels, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.inferers import SlidingWindowInferer
from torch import Tensor
from torch.nn import functional as F

from common.engines.inferers import AutocastInferer
from common.errors import MedpairError

OVERLAP = 0.5


class PaddedInferer(AutocastInferer):
    """Pad with zeros to what the network can take, and crop what it returns.

    Args:
        multiple: what the sides of its volumes must be multiples of, voxels: one number, or one
            each for D, H, W.
        precision: "auto", "bf16", "fp16" or "fp32".
        roi_size: (D, H, W) of windows that slide over the volume, half overlapping, their logits
            weighted by a Gaussian; None passes the volume whole.
    """

    def __init__(
        self,
        multiple: int | Sequence[int],
        precision: str = "auto",
        roi_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__(precision)
        each = [multiple] * 3 if isinstance(multiple, int) else list(multiple)
        if len(each) != 3 or min(each) < 1:
            raise MedpairError(f"multiple is {multiple}; want the product of the strides, >= 1")
        self.multiple, self.windows = each, None
        if roi_size is not None:
            self.windows = _windows(list(roi_size), each)

    def padded(self, shape: Sequence[int]) -> list[int]:
        """Return the size (D, H, W) that a volume is padded to."""
        return [n + -n % m for n, m in zip(shape, self.multiple, strict=True)]

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
        if self.windows is None:
            return self.whole(inputs, network, *args, **kwargs)
        forward = super().__call__
        logits: Tensor = self.windows(inputs, lambda part: forward(part, network, *args, **kwargs))
        return logits

    def whole(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return what `__call__` returns, in one pass even where there are windows."""
        depth, height, width = shape = inputs.shape[-3:]
        missing = [end - n for end, n in zip(self.padded(shape), shape, strict=True)]
        ends = [pad for n in reversed(missing) for pad in (0, n)]
        output = super().__call__(F.pad(inputs, ends), network, *args, **kwargs)
        return output[..., :depth, :height, :width]


def _windows(roi_size: list[int], multiple: list[int]) -> SlidingWindowInferer:
    if len(roi_size) != 3 or not all(
        r > 0 and r % m == 0 for r, m in zip(roi_size, multiple, strict=True)
    ):
        raise MedpairError(f"roi_size is {roi_size}; want D, H, W, multiples of {multiple}")
    return SlidingWindowInferer(roi_size, sw_batch_size=1, overlap=OVERLAP, mode="gaussian")
