"""Losses of the Vid2Vid generator and its discriminators.

B sequences, S slices, C channels, H, W size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from monai.losses import PatchAdversarialLoss
from torch import Tensor, nn
from torch.nn import functional as F

from common.networks.perceptual import perceptual_loss
from vid2vid.discriminator import Judgement
from vid2vid.generator import SliceOutput
from vid2vid.rollout import real_previous
from vid2vid.sequences import SequenceBatch
from vid2vid.warp import warp

Judgements = Mapping[str, Judgement]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the generator's loss terms; 0 leaves a term out.

    Args:
        adversarial: LSGAN, mean over the discriminators.
        feature_matching: L1 between discriminator features of real and generated.
        l1: L1 between generated and real image (not in Vid2Vid; pairs make it useful).
        l1_raw: the same for the raw image, so that the texture head learns everywhere.
        warp: L1 between the warped real slice before and the real slice.
        smooth: L1 of the flow's differences.
        flow: L1 to the reference flow where it is trusted (pixels / max_flow).
        perceptual: perceptual loss; wants a weights file.

    Source: Vid2Vid (1808.06601) §3.1; MedGen3D §3.2.
    """

    adversarial: float = 1.0
    feature_matching: float = 10.0
    l1: float = 10.0
    l1_raw: float = 5.0
    warp: float = 10.0
    smooth: float = 0.1
    flow: float = 0.0
    perceptual: float = 0.0


def feature_matching(fake: Judgements, real: Judgements) -> Tensor:
    """Return the mean L1 distance of all inner discriminator features; real ones carry no gradient.

    Source: pix2pixHD (1711.11585) eq. 4.
    """
    terms = [
        F.l1_loss(f.float(), r.detach().float())
        for name in fake
        for fakes, reals in zip(fake[name], real[name], strict=True)
        for f, r in zip(fakes[:-1], reals[:-1], strict=True)
    ]
    return torch.stack(terms).mean()


class GeneratorLoss:
    """All terms of the generator's loss.

    Args:
        weights: weight of each term.
        max_flow: bound of the flow in pixels, the unit of the flow term.
        perceptual_weights: file with weights of torchvision's ResNet-50 for the perceptual term;
            none is downloaded.

    Raises:
        MedpairError: where the perceptual term is wanted but its weights are not given.
    """

    def __init__(
        self,
        weights: LossWeights | None = None,
        max_flow: float = 4.0,
        perceptual_weights: str | None = None,
    ) -> None:
        self.weights, self.max_flow = weights or LossWeights(), max_flow
        self.adversarial = AdversarialTerms()
        self.perceptual: nn.Module | None = None
        if self.weights.perceptual:
            self.perceptual = perceptual_loss(perceptual_weights)

    @property
    def judges(self) -> bool:
        """Whether any term needs the discriminators."""
        return bool(self.weights.adversarial or self.weights.feature_matching)

    def __call__(
        self, output: SliceOutput, batch: SequenceBatch, fake: Judgements, real: Judgements
    ) -> dict[str, Tensor]:
        """Return the unweighted terms by name and their weighted sum as "g_loss"."""
        terms = {
            "l1": F.l1_loss(output.image, batch.image),
            "l1_raw": F.l1_loss(output.raw, batch.image),
            **motion_terms(output, batch),
        }
        if self.judges:
            terms["adversarial"] = self.adversarial.generator(fake)
            terms["feature_matching"] = feature_matching(fake, real)
        if batch.flow is not None and batch.flow_weight is not None:
            error = (output.flow - batch.flow).abs() / self.max_flow
            terms["flow"] = (error * batch.flow_weight).mean()
        if self.perceptual is not None:
            terms["perceptual"] = self._perceptual(output, batch)
        total = torch.stack([getattr(self.weights, name) * term for name, term in terms.items()])
        return {**terms, "g_loss": total.sum()}

    def _perceptual(self, output: SliceOutput, batch: SequenceBatch) -> Tensor:
        assert self.perceptual is not None
        self.perceptual.to(batch.image.device)
        distance = self.perceptual(output.image.flatten(0, 1), batch.image.flatten(0, 1))
        return torch.as_tensor(distance)


def motion_terms(output: SliceOutput, batch: SequenceBatch) -> dict[str, Tensor]:
    """Return the photometric warp loss on real slices and the smoothness of the flow."""
    previous, known = real_previous(batch)
    warped = warp(previous.flatten(0, 1), output.flow.flatten(0, 1)).view_as(previous)
    error = (warped - batch.image).abs().mean(dim=(2, 3, 4))
    flow = output.flow
    rows, columns = flow.diff(dim=-2).abs().mean(), flow.diff(dim=-1).abs().mean()
    return {"warp": (error * known).sum() / known.sum().clamp(min=1), "smooth": rows + columns}


class AdversarialTerms:
    """LSGAN terms over all discriminators and scales: `PatchAdversarialLoss`, no activation."""

    def __init__(self) -> None:
        self.loss = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)

    def _mean(self, judged: Judgements, *, real: bool, discriminator: bool) -> Tensor:
        terms = [
            self.loss([scale[-1].float() for scale in judgement], real, discriminator)
            for judgement in judged.values()
        ]
        return torch.stack(terms).mean()

    def generator(self, fake: Judgements) -> Tensor:
        """Return the loss that the generator minimises."""
        return self._mean(fake, real=True, discriminator=False)

    def discriminator(self, fake: Judgements, real: Judgements) -> Tensor:
        """Return half the sum of the losses on generated and on real sequences."""
        on_fake = self._mean(fake, real=False, discriminator=True)
        return 0.5 * (on_fake + self._mean(real, real=True, discriminator=True))
