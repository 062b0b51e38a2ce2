"""Training of the slice autoencoder: its losses and trainer, the latent scale, pictures.

N slices, C latent channels, H, W slice size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.inferers import Inferer
from torch import Tensor
from torch.nn import functional as F

from common.data.datasets import Arrays
from common.data.pictures import image_rows, save_rows
from common.engines.batches import IterationBatches
from common.engines.inferers import precision_context
from common.networks.perceptual import perceptual_loss
from gem3d.adversarial import AdversarialLoss, AdversarialTrainer
from gem3d.autoencoder import SliceAutoencoder
from gem3d.volumes import BACKGROUND, Volumes, pad_in_plane, to_image

MOST_VOLUMES = 16
MOST_PIXELS = 1 << 17
"""Pixels of the latents per channel that fix their scale: enough for three digits."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderLoss(AdversarialLoss):
    """The autoencoder's loss: L1 + KL + perceptual + adversarial.

    Args:
        kl: weight of the Kullback-Leibler divergence, mean over the latent's elements.
        adversarial: weight of the adversarial term (LSGAN).
        adversarial_start: first iteration with it.
        perceptual: weight of the perceptual term; wants ``perceptual_weights``.
        perceptual_weights: file with ResNet-50 weights.

    Source: Rombach et al. (2112.10752), appendix G; weights as in MAISI (2409.11169).
    """

    kl: float = 1e-4
    adversarial: float = 0.1
    adversarial_start: int = 500
    perceptual: float = 0.0
    perceptual_weights: str | None = None

    def __post_init__(self) -> None:
        seen = perceptual_loss(self.perceptual_weights) if self.perceptual else None
        object.__setattr__(self, "_seen", seen)

    def generator(
        self, image: Tensor, output: tuple[Tensor, ...], logits: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the terms by name, see `AdversarialLoss.generator`.

        Args:
            image: slices (N, 1, H, W).
            output: reconstruction, mean and standard deviation of the posterior.
            logits: the discriminator's patch logits of the reconstruction; None without.
        """
        made, mean, std = (value.float() for value in output)
        terms = {"l1": F.l1_loss(made, image), "kl": kl_divergence(mean, std)}
        total = terms["l1"] + self.kl * terms["kl"]
        if logits is not None:
            terms["adversarial"] = self.fooling(logits)
            total = total + self.adversarial * terms["adversarial"]
        if self.perceptual:
            terms["perceptual"] = self._seen.to(image.device)(made, image)  # type: ignore[attr-defined]
            total = total + self.perceptual * terms["perceptual"]
        return {**terms, "loss": total}


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """Return the mean divergence of N(mean, std^2) from N(0, 1), per element.

    Source: Kingma and Welling (1312.6114), appendix B.
    """
    variance = std.square()
    return 0.5 * (mean.square() + variance - variance.clamp(min=1e-12).log() - 1).mean()


class AutoencoderTrainer(AdversarialTrainer):
    """Train autoencoder and discriminator on slices; arguments as for `AdversarialTrainer`."""

    def prepare(self, batchdata: dict[str, Any]) -> tuple[Tensor, None]:
        """Return the slices."""
        image = batchdata["image"].to(self.state.device)
        return image.contiguous(memory_format=torch.channels_last), None


class FitLatentScale:
    """Set the averaged autoencoder's latent scale from the training scans when training ends.

    Slices of large scans are thinned out evenly.

    Args:
        network: the averaged autoencoder.
        volumes: the training scans.
    """

    def __init__(self, network: SliceAutoencoder, volumes: Volumes) -> None:
        self.network, self.volumes = network, volumes

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, before the export of the weights."""
        engine.add_event_handler(Events.COMPLETED, self._fit)

    def _fit(self) -> None:
        device = self.network.latent_mean.device
        slices = torch.cat(list(self.volumes.images[:MOST_VOLUMES]))[:, None]
        pixels = slices.numel() // self.network.factor**2
        thinned = slices[:: -(-pixels // MOST_PIXELS)]
        self.network.eval().fit_scale(thinned.to(device))


class Reconstruct(Inferer):
    """Encode slices and decode them again, as inference does.

    Args:
        precision: "auto", "bf16", "fp16" or "fp32".
    """

    def __init__(self, precision: str = "auto") -> None:
        super().__init__()
        self.precision = precision

    def __call__(self, inputs: Tensor, network: SliceAutoencoder) -> Tensor:
        """Return the reconstruction (N, 1, H, W) in [-1, 1]."""
        with precision_context(inputs.device, self.precision):
            return network.decode(network.encode(inputs))


def prepare_reconstruction(
    batchdata: dict[str, Any], device: torch.device | str | None, non_blocking: bool, **_: Any
) -> tuple[Tensor, Tensor]:
    """Return the slices twice: as input and as what should come out."""
    image = batchdata["image"].to(device, non_blocking=non_blocking)
    return image, image


class ReconstructionPicture:
    """Draw real slices and their reconstructions after every validation.

    Args:
        network: the averaged autoencoder.
        data: real scans that were held back.
        output_dir: gets ``samples/<iteration>.png``.
        batches: the trainer's data, whose iteration names the picture.
        count: scans shown.
    """

    def __init__(
        self,
        network: SliceAutoencoder,
        data: Arrays,
        output_dir: str,
        batches: IterationBatches,
        count: int = 3,
    ) -> None:
        self.network, self.data, self.batches, self.count = network, data, batches, count
        self.folder = Path(output_dir) / "samples"

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _draw(self) -> None:
        rows, infer = [], Reconstruct("fp32")
        device = self.network.latent_mean.device
        for scan in self.data.images[: self.count]:
            image = pad_in_plane(to_image(scan), self.network.factor, BACKGROUND)
            with torch.no_grad():
                made = infer(image[:, None].to(device), self.network.eval())[:, 0]
            height, width = scan.shape[-2:]
            unit = ((made[:, :height, :width] + 1) / 2).cpu().numpy()
            rows += image_rows(scan, self.data.schema) + image_rows(unit, self.data.schema)
        save_rows(rows, self.folder / f"{self.batches.iteration:06d}.png")
