"""Training of the slice autoencoder: losses, the adversarial trainer, the latent scale.

N slices, C latent channels, H, W slice size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.datasets import Arrays
from common.data.pictures import image_rows, save_rows
from common.engines.batches import IterationBatches
from common.engines.distributed import average_gradients
from common.engines.inferers import precision_context
from common.networks.perceptual import perceptual_loss
from gem3d.autoencoder import SliceAutoencoder
from gem3d.volumes import BACKGROUND, Volumes, pad_in_plane, to_image

MOST_VOLUMES = 16


def build_discriminator(channels: int = 32, num_layers: int = 2) -> nn.Module:
    """Return MONAI's patch discriminator for slices, without norm, with weights that fit that.

    Args:
        channels: filters of the first layer.
        num_layers: layers after the first; each halves the size.
    """
    net: nn.Module = PatchDiscriminator(2, channels, 1, num_layers_d=num_layers, norm=None)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            # MONAI's initial 0.02 is for nets with batch norm
            nn.init.kaiming_normal_(module.weight, a=0.2)
    return net


@dataclass(frozen=True)
class AutoencoderLoss:
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
        gan = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
        seen = perceptual_loss(self.perceptual_weights) if self.perceptual else None
        object.__setattr__(self, "_gan", gan)
        object.__setattr__(self, "_seen", seen)

    def judges(self, iteration: int) -> bool:
        """Return whether the discriminator plays a part in this iteration."""
        return self.adversarial > 0 and iteration >= self.adversarial_start

    def generator(
        self, image: Tensor, output: tuple[Tensor, Tensor, Tensor], logits: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the terms by name and their weighted sum as "loss".

        Args:
            image: slices (N, 1, H, W).
            output: what the autoencoder puts out for them.
            logits: the discriminator's patch logits of the reconstruction; None without.
        """
        made, mean, std = (value.float() for value in output)
        terms = {"l1": F.l1_loss(made, image), "kl": kl_divergence(mean, std)}
        total = terms["l1"] + self.kl * terms["kl"]
        if logits is not None:
            terms["adversarial"] = self._gan(logits.float(), True, False)  # type: ignore[attr-defined]
            total = total + self.adversarial * terms["adversarial"]
        if self.perceptual:
            terms["perceptual"] = self._seen.to(image.device)(made, image)  # type: ignore[attr-defined]
            total = total + self.perceptual * terms["perceptual"]
        return {**terms, "loss": total}

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Return half the sum of the losses on reconstructed and on real slices."""
        gan: PatchAdversarialLoss = self._gan  # type: ignore[attr-defined]
        on_fake: Tensor = gan(fake.float(), False, True)
        on_real: Tensor = gan(real.float(), True, True)
        return 0.5 * (on_fake + on_real)


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """Return the mean divergence of N(mean, std^2) from N(0, 1), per element.

    Source: Kingma and Welling (1312.6114), appendix B.
    """
    variance = std.square()
    return 0.5 * (mean.square() + variance - variance.clamp(min=1e-12).log() - 1).mean()


class AutoencoderTrainer(Trainer):
    """Train autoencoder and discriminator on slices.

    ``state.output`` holds the loss terms by name as tensors; "loss" and "d_loss" are the totals.
    MONAI's `AdversarialTrainer` has no place for the posterior that the KL term needs.

    Args:
        device: where to train.
        max_epochs: epochs of ``len(batches)`` iterations.
        batches: the training data.
        network: the autoencoder.
        optimizer: its optimiser.
        discriminator: the discriminator.
        d_optimizer: its optimiser.
        loss: the losses.
        precision: "auto", "bf16", "fp16" or "fp32".
        train_handlers: ignite handlers.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        batches: IterationBatches,
        network: SliceAutoencoder,
        optimizer: torch.optim.Optimizer,
        discriminator: nn.Module,
        d_optimizer: torch.optim.Optimizer,
        loss: AutoencoderLoss,
        precision: str = "auto",
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.network, self.discriminator = network, discriminator
        self.optimizer, self.d_optimizer = optimizer, d_optimizer
        self.loss, self.precision = loss, precision
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=batches,
            epoch_length=len(batches),
            handlers=train_handlers,
            decollate=False,
        )

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Tensor]:
        image = (
            batchdata["image"].to(self.state.device).contiguous(memory_format=torch.channels_last)
        )
        self.network.train()
        judges = self.loss.judges(engine.state.iteration)
        terms, made = self._autoencoder_step(image, judges)
        if judges:
            terms["d_loss"] = self._discriminator_step(image, made)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return terms

    def _autoencoder_step(self, image: Tensor, judges: bool) -> tuple[dict[str, Tensor], Tensor]:
        self.discriminator.requires_grad_(False)
        with precision_context(image.device, self.precision):
            output = self.network(image)
            logits = self.discriminator(output[0])[-1] if judges else None
        terms = self.loss.generator(image, output, logits)
        self.optimizer.zero_grad()
        torch.autograd.backward(terms["loss"])
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}, output[0].detach()

    def _discriminator_step(self, image: Tensor, made: Tensor) -> Tensor:
        self.discriminator.requires_grad_(True)
        with precision_context(image.device, self.precision):
            fake, real = (self.discriminator(x)[-1] for x in (made, image))
        loss = self.loss.discriminator(fake, real)
        self.d_optimizer.zero_grad()
        torch.autograd.backward(loss)
        average_gradients(self.discriminator)
        self.d_optimizer.step()
        return loss.detach()


class FitLatentScale:
    """Set the averaged autoencoder's latent scale from the training scans when training ends.

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
        self.network.eval().fit_scale(slices.to(device))


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
