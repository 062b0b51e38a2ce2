"""The losses of 3D-alpha-WGAN: critics' scores, high for real, with a gradient penalty.

B volumes or codes, ... their axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import MedpairError

Critic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class WganLoss:
    """Weights of the losses.

    Args:
        l1: of the reconstruction's mean absolute error.
        penalty: of the gradient penalties.
        generator_steps: optimiser steps of the generator per iteration, all with one gradient; the
            authors' code takes 2.

    Raises:
        MedpairError: for fewer than one step.

    Source: Kwon, Han and Kim, MICCAI 2019: the losses of encoder, generator and critics.
    """

    l1: float = 10.0
    penalty: float = 10.0
    generator_steps: int = 1

    def __post_init__(self) -> None:
        if self.generator_steps < 1:
            raise MedpairError(f"generator_steps: {self.generator_steps}, wanted 1 or 2")

    def generator(
        self, image: Tensor, rebuilt: Tensor, scores: Sequence[Tensor], code_score: Tensor
    ) -> dict[str, Tensor]:
        """Return the terms of encoder and generator by name, and their weighted sum as "loss".

        Args:
            image: real volumes.
            rebuilt: what the generator makes of their codes.
            scores: the discriminator's, of rebuilt and of random volumes.
            code_score: the code discriminator's, of the codes.
        """
        terms = {
            "l1": (rebuilt.float() - image).abs().mean(),
            "adversarial": sum((fooling(score) for score in scores), torch.zeros(())),
            "code": fooling(code_score),
        }
        total = self.l1 * terms["l1"] + terms["adversarial"] + terms["code"]
        return {**terms, "loss": total}


def fooling(score: Tensor) -> Tensor:
    """Return the loss of whoever wants a high score: minus the mean."""
    return -score.float().mean()


def critic_loss(real: Tensor, fakes: Sequence[Tensor]) -> Tensor:
    """Return the sum over kinds of fakes of mean score of fakes minus mean score of real ones.

    Args:
        real: scores of real volumes; of codes: scores of random codes.
        fakes: scores of each kind of fakes.

    Source: Kwon, Han and Kim, MICCAI 2019: the losses of both discriminators.
    """
    return sum((fooling(real) - fooling(fake) for fake in fakes), torch.zeros(()))


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, mix_B: Tensor) -> Tensor:
    """Return the mean squared distance of the gradient's norm from 1 between real and fake.

    Args:
        critic: gives scores (B, 1).
        real: (B, ...).
        fake: (B, ...).
        mix_B: share of the real one at the place of each gradient, in [0, 1].

    Source: Gulrajani et al. 2017 (1704.00028), equation 3.
    """
    share = mix_B.reshape(-1, *[1] * (real.ndim - 1))
    between = (share * real.detach() + (1 - share) * fake.detach()).requires_grad_()
    score = critic(between).sum()
    (gradient,) = torch.autograd.grad(score, between, create_graph=True)
    # an exact zero has no derivative of its norm
    norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1).square().mean()
