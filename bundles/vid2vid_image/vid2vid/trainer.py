"""The adversarial trainer: one step of the generator, one of the discriminators per iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from common.engines.distributed import average_gradients
from common.engines.inferers import precision_context
from vid2vid.discriminator import Discriminators
from vid2vid.inferers import SequenceInferer
from vid2vid.losses import GeneratorLoss
from vid2vid.sequences import SequenceBatch, SequenceBatches


class Vid2VidTrainer(Trainer):
    """Train generator and discriminators on slice sequences.

    MONAI's `AdversarialTrainer` does not fit: it judges one image per step with the arguments of
    the generator, has no place for the real images' features that feature matching needs or for
    sequences, and ties mixed precision to CUDA. So this one stands on MONAI's `Trainer`.

    `state.output` holds the loss terms by name as tensors; "g_loss" and "d_loss" are the totals.

    Args:
        device: where to train.
        max_epochs: epochs; an epoch is `batches.epoch_length` iterations.
        batches: the training data.
        network: the generator.
        optimizer: its optimiser.
        discriminators: the discriminators.
        d_optimizer: their optimiser.
        loss: the generator's loss.
        inferer: runs the generator along the sequences.
        train_handlers: ignite handlers.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        batches: SequenceBatches,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        discriminators: Discriminators,
        d_optimizer: torch.optim.Optimizer,
        loss: GeneratorLoss,
        inferer: SequenceInferer,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.network, self.discriminators = network, discriminators
        self.optimizer, self.d_optimizer = optimizer, d_optimizer
        self.loss, self.inferer = loss, inferer
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=batches,
            epoch_length=batches.epoch_length,
            handlers=train_handlers,
            decollate=False,
        )

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Tensor]:
        batch: SequenceBatch = batchdata["sequences"].to(self.state.device)
        self.network.train()
        terms, images = self._generator_step(batch)
        if self.loss.judges:
            terms["d_loss"] = self._discriminator_step(batch, images)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return terms

    def _generator_step(self, batch: SequenceBatch) -> tuple[dict[str, Tensor], Tensor]:
        self.discriminators.requires_grad_(False)
        output = self.inferer(batch, self.network)
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        fake, real = {}, {}
        if self.loss.judges:
            with precision_context(batch.image.device, self.inferer.precision):
                fake = self.discriminators(output.image, batch.current)
                with torch.no_grad():
                    real = self.discriminators(batch.image, batch.current)
        terms = self.loss(output, batch, fake, real)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.optimizer.zero_grad()
        torch.autograd.backward(terms["g_loss"])
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.optimizer.step()
        share = output.weight.detach().mean()
        detached = {name: term.detach() for name, term in terms.items()}
        return {**detached, "raw_share": share}, output.image.detach()

    def _discriminator_step(self, batch: SequenceBatch, images: Tensor) -> Tensor:
        self.discriminators.requires_grad_(True)
        with precision_context(batch.image.device, self.inferer.precision):
            fake = self.discriminators(images, batch.current)
            real = self.discriminators(batch.image, batch.current)
        loss = self.loss.adversarial.discriminator(fake, real)
        self.d_optimizer.zero_grad()
        torch.autograd.backward(loss)
        average_gradients(self.discriminators)
        self.d_optimizer.step()
        return loss.detach()
