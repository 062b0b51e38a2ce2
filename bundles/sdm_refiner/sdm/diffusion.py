"""What the semantic diffusion model is fed and asked for in training.

N slices, C image channels, M mask channels, a, b slice size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.diffusion.schedules import (
    NoiseSchedule,
    Prediction,
    add_noise,
    draw_timesteps,
    training_target,
)
from common.engines.batches import iteration_generator, moved, noise_like
from common.errors import MedpairError
from sdm.learned_sigma import pack, unpack, variational_bound
from sdm.slices import one_hot_windows

SAMPLERS = ("ddpm", "ddim", "dpm_solver_pp_2m")  # those that run on its noise schedule


def check_sampler(sampler: str) -> None:
    """Raise MedpairError for a sampler that does not fit the diffusion of slices."""
    if sampler not in SAMPLERS:
        raise MedpairError(f"sampler: {sampler!r}; want one of {', '.join(SAMPLERS)}")


@dataclass(frozen=True)
class SliceDiffusion:
    """The diffusion of slices.

    Args:
        schedule: noise schedule.
        prediction: what the network puts out: "eps" (paper), "v" or "x0".
        noise_emphasis: exponent k > 0; t is drawn with density proportional to t^(k-1), so k < 1
            trains the low noise levels, at which a refiner works, more often (paper: 1).
        mask_dropout: share of slices trained without a mask, for guidance (paper: 0.2).
        before_share: share of the slices with t in ``before_range`` whose x_t is made from the
            image to be refined instead of the real one, where the data hold it (paper: 0).
        before_range: first and last t + 1 of them; near t = 0 the two cannot be told apart.
        learned_sigma: the network puts out the variance of the steps too (original code: yes).
    """

    schedule: NoiseSchedule
    prediction: Prediction = "eps"
    noise_emphasis: float = 1.0
    mask_dropout: float = 0.0
    before_share: float = 0.0
    before_range: Sequence[int] = (5, 200)
    learned_sigma: bool = False

    def __post_init__(self) -> None:
        shares = (self.mask_dropout, self.before_share)
        if min(shares) < 0 or max(shares) > 1 or self.noise_emphasis <= 0:
            raise MedpairError(
                f"mask_dropout and before_share {shares}, noise_emphasis {self.noise_emphasis}; "
                "want 0..1 and above 0; correct the config"
            )

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Return ``count`` time steps in 0..T-1, int64."""
        return draw_timesteps(self.schedule.T, count, self.noise_emphasis, generator)

    def noise_from(
        self, x_0: Tensor, before: Tensor, eps: Tensor, t: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the noise that leads from x_0 to the noised image before the refinement.

        For the slices chosen by chance, x_t = alpha before + sigma eps = alpha x_0 + sigma eps'
        with eps' = eps + (alpha / sigma) (before - x_0): a network that predicts eps' learns to
        undo the errors of the image stage besides the noise.

        Args:
            x_0: real slices (N, C, a, b).
            before: the image stage's slices for the same masks.
            eps: standard normal noise.
            t: (N,) time steps.
            generator: draws which slices.

        Returns:
            eps' for the chosen slices, eps for the others.
        """
        low, high = self.before_range
        chosen = torch.rand(len(t), generator=generator).to(t.device) < self.before_share
        chosen = (chosen & (low <= t) & (t < high)).view(-1, 1, 1, 1)
        alpha, sigma = (a.to(eps).view(-1, 1, 1, 1) for a in self.schedule.alpha_sigma(t))
        return torch.where(chosen, eps + alpha / sigma * (before - x_0), eps)


class PrepareSliceBatch:
    """MONAI ``prepare_batch``: noisy slices in, the training target out.

    Args:
        diffusion: schedule and prediction type.
        num_classes: K; masks become one-hot.

    Source: SDM (2207.00050) §3.1 and §3.3; DDPM (2006.11239) Algorithm 1.
    """

    def __init__(self, diffusion: SliceDiffusion, num_classes: int) -> None:
        self.diffusion, self.num_classes = diffusion, num_classes

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor, str], dict[str, Any]]:
        """Return (x_t, target, (t, mask, position, view), {}).

        With a learned variance the target carries what `SliceLoss` needs besides, see `pack`.
        """
        d = self.diffusion
        generator = iteration_generator(int(batchdata["seed"]) + 1, int(batchdata["iteration"]))
        batch = moved(batchdata, device, non_blocking)  # masks and noise are made there
        x_0 = batch["image"]
        t = d.draw_timesteps(len(x_0), generator).to(x_0.device)
        eps = noise_like(x_0, generator)
        kept = (torch.rand(len(x_0), generator=generator) >= d.mask_dropout).to(x_0.device)
        if "before" in batch:
            eps = d.noise_from(x_0, batch["before"], eps, t, generator)
        x_t = add_noise(d.schedule, x_0, eps, t)
        target = training_target(d.schedule, x_0, eps, t, d.prediction)
        if d.learned_sigma:
            target = pack(target, x_0, x_t, t)
        mask = one_hot_windows(batch["label"], self.num_classes) * kept[:, None, None, None]
        return x_t, target, (t.float(), mask, batch["position"], batch["view"]), {}


class SliceLoss(nn.Module):
    """Mean squared error of the prediction; with a learned variance, plus the variational bound.

    Args:
        diffusion: what the network is trained for; None for one without learned variance.
        bound_weight: lambda, the weight of the bound, which trains the variance alone.

    Source: DDPM (2006.11239), eq. 14; Nichol and Dhariwal (2102.09672), eq. 16.
    """

    def __init__(self, diffusion: SliceDiffusion | None = None, bound_weight: float = 0.001):
        super().__init__()
        self.diffusion, self.bound_weight = diffusion, bound_weight

    def forward(self, prediction_NCab: Tensor, target_NCab: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            prediction_NCab: what the network puts out; with learned variance 2C channels.
            target_NCab: from `PrepareSliceBatch`.

        Raises:
            MedpairError: if network and diffusion do not agree on the learned variance.
        """
        d = self.diffusion
        if d is None or not d.learned_sigma:
            _check_channels(prediction_NCab, target_NCab.shape[1])
            return F.mse_loss(prediction_NCab, target_NCab)
        target, x_0, x_t, t = unpack(target_NCab)
        _check_channels(prediction_NCab, 2 * target.shape[1])
        output, logits = prediction_NCab.chunk(2, dim=1)
        bound = variational_bound(d.schedule, d.prediction, output, logits, x_0, x_t, t).mean()
        return F.mse_loss(output, target) + self.bound_weight * d.schedule.T * bound


def _check_channels(prediction: Tensor, wanted: int) -> None:
    if prediction.shape[1] != wanted:
        raise MedpairError(
            f"the network puts out {prediction.shape[1]} channels; want {wanted}; set "
            "learned_sigma alike in network_def and diffusion"
        )
