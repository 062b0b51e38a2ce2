"""The image stage of a pipeline: masks in, images out."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from common.data.pairs import PairBatch
from common.diffusion.rng import STAGES, normal
from common.engines.footprint import peak_bytes
from common.engines.inferers import precision_context
from common.errors import MedpairError
from vid2vid.generator import SliceGenerator
from vid2vid.inferers import VolumeInferer

STYLE_WINDOW = 0


class ImageStage:
    """Give every mask of a batch an image.

    Args:
        network: the generator with its weights.
        schema: name of the label schema it was trained for.
        inferer: how volumes are generated.
    """

    def __init__(
        self, network: SliceGenerator, schema: str, inferer: VolumeInferer | None = None
    ) -> None:
        if network.image_channels != 1:
            raise MedpairError(
                f"image_channels is {network.image_channels}; want 1 in a pipeline, whose volumes "
                "have one channel; repair network_def"
            )
        self.network, self.schema = network, schema
        self.inferer = inferer or VolumeInferer()

    def working_bytes(self, volumes: int, size: tuple[int, int, int]) -> int:
        """Return the bytes that a batch of volumes holds at its peak, beside the weights.

        Args:
            volumes: V.
            size: (D, H, W) of the volumes.
        """
        net, (_, height, width) = self.network, size
        device, rows = next(net.parameters()).device, 2 * volumes

        def step() -> None:
            def zeros(*shape: int) -> Tensor:
                return torch.zeros(rows, *shape, device=device)

            window = net.past_labels + 1 + net.ahead_labels
            label = zeros(window, height, width).byte()
            past = zeros(net.past_images, net.image_channels, height, width)
            style = None if net.style is None else zeros(net.num_classes)
            with precision_context(device, self.inferer.precision):
                net(label, past, zeros(net.past_images) > 0, zeros(2), style)

        images = 2 * volumes * math.prod(size) * torch.float32.itemsize
        return peak_bytes(step) + images

    def __call__(self, batch: PairBatch) -> PairBatch:
        """Return the batch with its images (V, D, H, W) in [-1, 1].

        Raises:
            MedpairError: where the masks are missing or do not fit the weights.
        """
        if batch.label_VDHW is None:
            raise MedpairError("image stage: no masks; put a mask stage before it in the pipeline")
        batch.check_schema("image", self.schema)
        device = next(self.network.parameters()).device
        label = batch.label_VDHW.to(device)
        image = self.inferer(label, self.network.eval(), style=self._styles(batch))
        return replace(batch, image_VDHW=image[:, 0].cpu())

    def _styles(self, batch: PairBatch) -> Tensor | None:
        """Draw a style per volume from the normal distribution of the training styles."""
        if self.network.style is None:
            return None
        noise = normal(
            batch.seed,
            volume=batch.volumes,
            stage=STAGES["vid2vid"],
            window=[STYLE_WINDOW] * len(batch.volumes),
            step=0,
            shape=(self.network.num_classes,),
            purpose="init",
        )
        mean, factor = self.network.style_mean.cpu(), self.network.style_factor.cpu()
        return torch.clamp(mean + noise @ factor, -1, 1)
