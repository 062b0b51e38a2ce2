"""What adversarial trainings share: the patch discriminator, LSGAN's losses and the trainer.

N slices or volumes, ... their one or more axes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from common.engines.batches import IterationBatches
from common.engines.distributed import average_gradients
from common.engines.inferers import precision_context

LSGAN = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)


def build_discriminator(
    channels: int = 32, num_layers: int = 2, spatial_dims: int = 2, in_channels: int = 1
) -> nn.Module:
    """Return MONAI's patch discriminator, without norm, with weights that fit that.

    Args:
        channels: filters of the first layer.
        num_layers: layers after the first; all but the last halve the size.
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of what it judges.
    """
    net: nn.Module = PatchDiscriminator(
        spatial_dims, channels, in_channels, num_layers_d=num_layers, norm=None
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            # MONAI's initial 0.02 is for nets with batch norm
            nn.init.kaiming_normal_(module.weight, a=0.2)
    return net


@dataclass(frozen=True, kw_only=True)
class AdversarialLoss(ABC):
    """The part of a loss that a discriminator gives.

    Args:
        adversarial: weight of the adversarial term (LSGAN).
        adversarial_start: first iteration with it.

    Source: Mao et al., LSGAN (1611.04076), eq. 9.
    """

    adversarial: float
    adversarial_start: int

    def judges(self, iteration: int) -> bool:
        """Return whether the discriminator plays a part in this iteration."""
        return self.adversarial > 0 and iteration >= self.adversarial_start

    @abstractmethod
    def generator(
        self, image: Tensor, output: tuple[Tensor, ...], logits: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the terms by name and their weighted sum as "loss".

        Args:
            image: real images (N, 1, ...).
            output: what the network puts out for them, its images first.
            logits: the discriminator's patch logits of those images; None without.
        """

    def fooling(self, logits: Tensor) -> Tensor:
        """Return the unweighted loss of a generator whose images get these logits."""
        loss: Tensor = LSGAN(logits.float(), True, False)
        return loss

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Return half the sum of the losses on the logits of made and of real images."""
        on_fake: Tensor = LSGAN(fake.float(), False, True)
        on_real: Tensor = LSGAN(real.float(), True, True)
        return 0.5 * (on_fake + on_real)


class AdversarialTrainer(Trainer):
    """Train a network and a discriminator, a step of each per iteration.

    ``state.output`` holds the loss terms by name as tensors; "loss" and "d_loss" are the totals.
    MONAI's own `AdversarialTrainer` has no place for conditions that the discriminator sees, for
    further outputs that the loss needs, or for mixed precision on CPUs.

    Args:
        device: where to train.
        max_epochs: epochs of ``len(batches)`` iterations.
        batches: the training data.
        network: what makes the images.
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
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        discriminator: nn.Module,
        d_optimizer: torch.optim.Optimizer,
        loss: AdversarialLoss,
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

    @abstractmethod
    def prepare(self, batchdata: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Return the real images and their conditions, None without, on the device."""

    def make(self, image: Tensor, condition: Tensor | None) -> tuple[Tensor, ...]:
        """Return what the network puts out, its images first.

        It is fed the conditions, or the images where there are none.
        """
        output = self.network(image if condition is None else condition)
        return output if isinstance(output, tuple) else (output,)

    def judge(self, image: Tensor, condition: Tensor | None) -> Tensor:
        """Return the discriminator's patch logits of images under their conditions."""
        seen = image if condition is None else torch.cat([condition, image], dim=1)
        logits: Tensor = self.discriminator(seen)[-1]
        return logits

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Tensor]:
        image, condition = self.prepare(batchdata)
        self.network.train()
        judges = self.loss.judges(engine.state.iteration)
        terms, made = self._network_step(image, condition, judges)
        if judges:
            terms["d_loss"] = self._discriminator_step(image, condition, made)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return terms

    def _network_step(
        self, image: Tensor, condition: Tensor | None, judges: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        self.discriminator.requires_grad_(False)
        with precision_context(image.device, self.precision):
            output = self.make(image, condition)
            logits = self.judge(output[0], condition) if judges else None
        terms = self.loss.generator(image, output, logits)
        self.optimizer.zero_grad()
        torch.autograd.backward(terms["loss"])
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}, output[0].detach()

    def _discriminator_step(self, image: Tensor, condition: Tensor | None, made: Tensor) -> Tensor:
        self.discriminator.requires_grad_(True)
        with precision_context(image.device, self.precision):
            fake, real = (self.judge(x, condition) for x in (made, image))
        loss = self.loss.discriminator(fake, real)
        self.d_optimizer.zero_grad()
        torch.autograd.backward(loss)
        average_gradients(self.discriminator)
        self.d_optimizer.step()
        return loss.detach()
