"""How 3D-alpha-WGAN is trained: its batches, its trainer, and pictures of what it makes.

B volumes, L numbers of a code, D, H, W padded volume size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch import Tensor, nn

from common.data.labels import LabelSchema
from common.data.pictures import image_rows, save_rows
from common.engines.batches import Batch, IterationBatches
from common.engines.distributed import average_gradients
from common.engines.inferers import precision_context
from common.errors import MedpairError
from segeval.augment import AugmentRanges
from segeval.baselines.alpha_wgan import VolumeGenerator, pad_volume
from segeval.baselines.wgan import WganLoss, critic_loss, gradient_penalty
from segeval.baselines.wgan_stage import draw_codes
from segeval.data import ScanBatches, Scans

BETAS = (0.9, 0.999)
PENALTIES = 3  # on rebuilt volumes, random volumes, codes


def adam(network: nn.Module, lr: float) -> torch.optim.Adam:
    """Return the optimiser of one of the networks."""
    return torch.optim.Adam(network.parameters(), lr=lr, betas=BETAS)


class WganBatches:
    """Draw batches of scans, random codes, and where gradients are penalised.

    Args:
        scans: where they come from.
        batch_size: volumes B per batch, 2 or more, for batch norm.
        generator: whose volumes they shall resemble; gives size and L.
        flip: probability of a left/right mirror image.

    Raises:
        MedpairError: for a single volume per batch, or scans larger than the generator's.
    """

    def __init__(
        self, scans: Scans, batch_size: int, generator: VolumeGenerator, flip: float = 0.5
    ) -> None:
        if batch_size < 2:
            raise MedpairError(f"batch_size: {batch_size}, wanted >= 2 for batch norm; raise it")
        ranges = AugmentRanges(flip=flip, warp=0.0, intensity=0.0)
        self.draw = ScanBatches(scans, batch_size, ranges)
        self.batch_size, self.padded, self.latent = batch_size, generator.padded, generator.latent
        pad_volume(torch.zeros(self.draw.size), self.padded)  # refuses scans that are too large

    def __call__(self, generator: torch.Generator) -> Batch:
        """Return ``image`` (B, 1, D, H, W) in [-1, 1], ``code`` (B, L), ``mix`` (3, B) 0..1."""
        image = self.draw(generator)[CommonKeys.IMAGE]
        return {
            CommonKeys.IMAGE: pad_volume(2 * image - 1, self.padded),
            "code": torch.randn(self.batch_size, self.latent, generator=generator),
            "mix": torch.rand(PENALTIES, self.batch_size, generator=generator),
        }


class AlphaWganTrainer(Trainer):
    """Train encoder and generator, then the two critics, a step of each per iteration.

    ``state.output`` holds the loss terms by name as tensors; "loss", "d_loss" and "c_loss" are the
    totals. MONAI's `GanTrainer` has one discriminator and no place for codes or penalties.

    Args:
        device: where to train.
        max_epochs: epochs of ``len(batches)`` iterations.
        batches: of `WganBatches`.
        networks: "generator", "encoder", "discriminator" and "code_discriminator".
        optimizers: by the same names.
        loss: weights of the losses.
        precision: "auto", "bf16", "fp16" or "fp32"; gradient penalties are in fp32.
        train_handlers: ignite handlers.

    Source: Kwon, Han and Kim, MICCAI 2019.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        batches: IterationBatches,
        networks: dict[str, nn.Module],
        optimizers: dict[str, torch.optim.Optimizer],
        loss: WganLoss,
        precision: str = "fp32",
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.networks, self.optimizers = networks, optimizers
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
        image, random, mix = (
            batchdata[key].to(self.state.device) for key in (CommonKeys.IMAGE, "code", "mix")
        )
        for network in self.networks.values():
            network.train()
        terms, code, fakes = self._make(image, random)
        terms |= self._judge_volumes(image, fakes, mix)
        terms |= self._judge_codes(random, code, mix[-1])
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return terms

    def _make(
        self, image: Tensor, random: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
        """Step encoder and generator; return the terms, the codes, rebuilt and random volumes."""
        self._freeze("discriminator", "code_discriminator")
        nets = self.networks
        with precision_context(image.device, self.precision):
            code = nets["encoder"](image)
            fakes = [nets["generator"](code), nets["generator"](random)]
            scores = [nets["discriminator"](fake) for fake in fakes]
            code_score = nets["code_discriminator"](code)
        terms = self.loss.generator(image, fakes[0], scores, code_score)
        self._step(terms["loss"], "encoder", "generator")
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        for _ in range(self.loss.generator_steps - 1):
            self.optimizers["generator"].step()
        detached = {name: term.detach() for name, term in terms.items()}
        return detached, code.detach().float(), [fake.detach().float() for fake in fakes]

    def _judge_volumes(self, image: Tensor, fakes: list[Tensor], mix: Tensor) -> dict[str, Tensor]:
        critic = self.networks["discriminator"]
        self._train_only("discriminator")
        with precision_context(image.device, self.precision):
            real, *scores = (critic(volume) for volume in (image, *fakes))
        pairs = zip(fakes, mix, strict=False)
        penalty = sum(
            (gradient_penalty(critic, image, fake, share) for fake, share in pairs),
            image.new_zeros(()),
        )
        gap = critic_loss(real, scores)
        loss = gap + self.loss.penalty * penalty
        self._step(loss, "discriminator")
        return {"d_loss": loss.detach(), "d_gap": gap.detach(), "d_penalty": penalty.detach()}

    def _judge_codes(self, random: Tensor, code: Tensor, share: Tensor) -> dict[str, Tensor]:
        critic = self.networks["code_discriminator"]
        self._train_only("code_discriminator")
        with precision_context(random.device, self.precision):
            gap = critic_loss(critic(random), [critic(code)])
        loss = gap + self.loss.penalty * gradient_penalty(critic, random, code, share)
        self._step(loss, "code_discriminator")
        return {"c_loss": loss.detach()}

    def _freeze(self, *names: str) -> None:
        for name, network in self.networks.items():
            network.requires_grad_(name not in names)

    def _train_only(self, name: str) -> None:
        self._freeze(*(other for other in self.networks if other != name))

    def _step(self, loss: Tensor, *names: str) -> None:
        for name in names:
            self.optimizers[name].zero_grad()
        torch.autograd.backward(loss)
        for name in names:
            average_gradients(self.networks[name])
            self.optimizers[name].step()


class SampleSheet:
    """Write ``<iteration>.png`` with the same few made volumes, now and then.

    Args:
        network: the (averaged) generator.
        schema: label schema; gives the slice axis.
        output_dir: folder of the pictures.
        every: epochs between two.
        seed: of the codes.
        volumes: how many are shown.
    """

    def __init__(
        self,
        network: VolumeGenerator,
        schema: LabelSchema,
        output_dir: str,
        every: int = 1,
        seed: int = 0,
        volumes: int = 4,
    ) -> None:
        self.network, self.schema, self.output_dir = network, schema, Path(output_dir)
        self.every, self.seed, self.volumes = every, seed, volumes

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self._write)

    @torch.no_grad()
    def _write(self, engine: Engine) -> None:
        latent = int(self.network.latent)
        code = draw_codes(self.seed, range(self.volumes), latent)
        self.network.eval()
        made = self.network(code.to(next(self.network.parameters()).device))[:, 0]
        rows = []
        for volume in ((made.float().cpu() + 1) / 2).numpy():
            rows += image_rows(volume, self.schema)
        save_rows(rows, self.output_dir / f"{engine.state.iteration:06d}.png")
