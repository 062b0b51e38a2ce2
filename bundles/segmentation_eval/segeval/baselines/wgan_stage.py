"""3D-alpha-WGAN as a stage: images by number and seed, with the masks that a segmenter finds.

V volumes, L numbers of a code, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.pairs import PairBatch
from common.diffusion.rng import STAGES, NoiseStream
from common.engines.weights import read_card
from common.errors import MedpairError
from common.io.manifest import sha256
from common.metrics.alignment import Segment
from common.stages import open_key, weights_path
from segeval.baselines.alpha_wgan import VolumeGenerator, crop_volume

EMPTY = "empty: this baseline makes no masks"


def draw_codes(seed: int, volumes: Iterable[int], latent: int) -> Tensor:
    """Return normal codes (V, L); each depends on the seed and its volume's number alone."""
    numbers = list(volumes)
    stream = NoiseStream(seed, numbers, STAGES["alpha_wgan"], [0] * len(numbers), (latent,))
    return stream(0, "init")


@dataclass(frozen=True)
class AlphaWganStage:
    """Fill a batch with made images, and with masks found in them.

    Args:
        network: the trained generator in eval mode.
        schema: label schema of the scans it was trained on.
        segment: masks of images in [-1, 1]; None leaves the masks empty.
    """

    network: VolumeGenerator
    schema: str
    segment: Segment | None = None

    @torch.no_grad()
    def __call__(self, batch: PairBatch) -> PairBatch:
        """Return the batch with ``image_VDHW`` and ``label_VDHW``.

        Raises:
            MedpairError: for a batch of another schema or size.
        """
        batch.check_schema("alpha-WGAN", self.schema)
        if batch.size != self.network.size:
            raise MedpairError(
                f"size: {batch.size}, the weights make {self.network.size}; ask for that"
            )
        device = next(self.network.parameters()).device
        code = draw_codes(batch.seed, batch.volumes, self.network.latent)
        image = crop_volume(self.network(code.to(device))[:, 0], batch.size).float().cpu()
        label = torch.zeros(image.shape, dtype=torch.uint8)
        if self.segment is not None:
            label = self.segment(image)
        return replace(batch, image_VDHW=image.contiguous(), label_VDHW=label)


def open_segmenter(
    bundle: str | None, schema: str, preset: str, weights: str | None = None
) -> Segment | None:
    """Open what finds masks in images.

    Args:
        bundle: whose key ``segment`` it is; None for nobody.
        schema: label schema that the masks shall have.
        preset: of its weights.
        weights: folder with ``<bundle>/model.pt``; None takes the weights that ship.

    Raises:
        MedpairError: for weights that are missing or of another schema.
    """
    if bundle is None:
        return None
    path = weights_path(bundle, preset, weights)
    found = read_card(path).get("schema", schema)
    if found != schema:
        raise MedpairError(
            f"segmenter: {path} knows schema {found}, wanted {schema}; give segmenter_weights for "
            "it, or segmenter null for empty masks"
        )
    segment: Segment | None = open_key(bundle, "segment", preset, weights)
    return segment


def parameters(
    weights: str, segmenter: str | None, preset: str, segmenter_weights: str | None = None
) -> dict[str, Any]:
    """Return what a pair set says of how it was made.

    Args:
        weights: the generator's weight file.
        segmenter: bundle that found the masks; None for empty ones.
        preset: of the segmenter's weights.
        segmenter_weights: folder of them; None for those that ship.
    """
    made: dict[str, Any] = {
        "bundle": "segmentation_eval",
        "baseline": "3D-alpha-WGAN",
        "weights_sha256": sha256(Path(weights)),
        "masks": EMPTY,
    }
    if segmenter is not None:
        made["masks"] = f"found in the images by {segmenter}, not given to the generator"
        made["masks_sha256"] = sha256(weights_path(segmenter, preset, segmenter_weights))
    return made
