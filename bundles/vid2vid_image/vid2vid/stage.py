"""The image stage of a pipeline: masks in, images out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from common.data.pairs import PairBatch
from common.diffusion.rng import STAGES, normal
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
