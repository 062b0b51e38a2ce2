"""How networks are called: along sequences in training, for whole volumes in inference."""

from __future__ import annotations

from collections.abc import Sequence

from monai.inferers import Inferer
from torch import Tensor, nn

from common.data.checks import whole_numbers
from common.engines.inferers import precision_context, resolve_precision
from vid2vid.generator import SliceOutput
from vid2vid.propagate import generate_volumes
from vid2vid.rollout import rollout
from vid2vid.sequences import SequenceBatch


class SequenceInferer(Inferer):
    """Run the generator along training sequences under autocast.

    Args:
        precision: "auto", "bf16", "fp16" or "fp32".
        backprop: slices through which gradients flow back, see `rollout`.
    """

    def __init__(self, precision: str = "auto", backprop: int = 1) -> None:
        super().__init__()
        self.precision, self.backprop = precision, backprop

    def __call__(self, inputs: SequenceBatch, network: nn.Module) -> SliceOutput:
        """Return the outputs of all slices."""
        with precision_context(inputs.image.device, self.precision):
            return rollout(network, inputs, self.backprop)


class VolumeInferer(Inferer):
    """Generate the image of whole masks.

    Args:
        precision: "fp32" (default, no rounding in the images), "auto", "bf16" or "fp16".
        start: start slice for every volume; None is the one with the largest foreground.
    """

    def __init__(self, precision: str = "fp32", start: int | None = None) -> None:
        super().__init__()
        resolve_precision("cpu", precision)
        self.precision, self.start = precision, start

    def __call__(
        self,
        inputs: Tensor,
        network: nn.Module,
        starts: Sequence[int] | None = None,
        style: Tensor | None = None,
    ) -> Tensor:
        """Return images (V, C, D, H, W) in [-1, 1] of masks (V, 1, D, H, W) or (V, D, H, W)."""
        label = whole_numbers(inputs[:, 0] if inputs.ndim == 5 else inputs)
        if starts is None and self.start is not None:
            starts = [self.start] * len(label)
        with precision_context(label.device, self.precision):
            return generate_volumes(network, label, starts, style)  # type: ignore[arg-type]
