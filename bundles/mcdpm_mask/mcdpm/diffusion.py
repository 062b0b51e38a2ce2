"""What MC-DPM feeds its denoiser and what it asks of it, in training.

B windows, S slices, C code channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
from common.kernels import assemble_window
from mcdpm.codec import LabelCodec

MaskPrediction = Literal["eps", "x0", "v", "logits"]


@dataclass(frozen=True)
class MaskDiffusion:
    """The diffusion of mask windows: code, schedule and prediction type.

    Args:
        codec: label code.
        schedule: noise schedule.
        prediction: what the denoiser puts out: "eps", "v", "x0", or "logits", class logits
            whose softmax is the posterior mean of a one-hot x_0 (needs the one-hot code).
        noise_emphasis: exponent k >= 1; t is drawn with density proportional to t^(k-1), so
            k > 1 trains the high noise levels, where the layout is decided, more often.
        condition_noise: standard deviation of Gaussian noise on the condition slices' code.
    """

    codec: LabelCodec
    schedule: NoiseSchedule
    prediction: MaskPrediction = "logits"
    noise_emphasis: float = 1.0
    condition_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.prediction == "logits" and self.codec.channels == 1:
            raise MedpairError(
                "prediction is 'logits' with a label code of one channel; "
                "use label_code one_hot, or predict 'v', 'x0' or 'eps'"
            )

    @property
    def sampled_prediction(self) -> Prediction:
        """What `estimate` returns, in the samplers' terms."""
        return "x0" if self.prediction == "logits" else self.prediction

    def estimate(self, output_BSCHW: Tensor) -> Tensor:
        """Turn the network's output into what the samplers take; the same, except for logits."""
        if self.prediction != "logits":
            return output_BSCHW
        return output_BSCHW.softmax(dim=2) * 2 - 1

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Return ``count`` time steps in 0..T-1, int64."""
        return draw_timesteps(self.schedule.T, count, self.noise_emphasis, generator)


def network_input(x_BSCHW: Tensor, condition_BSCHW: Tensor, known_BS: Tensor) -> Tensor:
    """Put clean condition slices in place and append the indicator channel.

    Args:
        x_BSCHW: noisy code.
        condition_BSCHW: clean code, used where ``known_BS``.
        known_BS: condition slices, bool.

    Returns:
        (B, S, C+1, H, W).

    Source: MedGen3D §3.1, Eq. 3 (X^C stays clean, a binary indicator marks it).
    """
    return assemble_window(x_BSCHW, condition_BSCHW, known_BS)


class PrepareMaskBatch:
    """MONAI ``prepare_batch``: noisy windows in, the training target out.

    Args:
        diffusion: code, schedule and prediction type.

    Source: MedGen3D Eq. 3-4; DDPM (2006.11239) Algorithm 1.
    """

    def __init__(self, diffusion: MaskDiffusion) -> None:
        self.diffusion = diffusion

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], dict[str, Any]]:
        """Return (inputs, targets, (timesteps, position), {}).

        The target is what the network should put out (for logits: the label), with the weight of
        each slice as a last channel: 1 on target slices, 0 on condition slices.
        """
        d = self.diffusion
        generator = iteration_generator(int(batchdata["seed"]) + 1, int(batchdata["iteration"]))
        batch = moved(batchdata, device, non_blocking)  # codes and noise are made there
        x_0, known = d.codec.encode(batch["label"]), batch["known"]
        t = d.draw_timesteps(len(x_0), generator).to(x_0.device)
        eps = noise_like(x_0, generator)
        condition = d.codec.encode(batch["condition"])
        condition = condition + d.condition_noise * noise_like(x_0, generator)
        x_t = add_noise(d.schedule, x_0, eps, t)
        target = self._target(batch["label"], x_0, eps, t)
        weight = (~known).to(target.dtype)[:, :, None, None, None]
        target = torch.cat([target, weight.expand_as(target[:, :, :1])], dim=2)
        return network_input(x_t, condition, known), target, (t.float(), batch["position"]), {}

    def _target(self, label: Tensor, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        if self.diffusion.prediction == "logits":
            return label[:, :, None].to(x_0.dtype)
        return training_target(self.diffusion.schedule, x_0, eps, t, self.diffusion.prediction)


class TargetSliceLoss(nn.Module):
    """Error over the target slices only: squared, or cross-entropy for logits.

    Args:
        diffusion: whose prediction type decides.

    Source: MedGen3D Eq. 4 (the norm runs over X^P). Cross-entropy is the proper score whose
        optimum is the same denoiser: the class probabilities given x_t.
    """

    def __init__(self, diffusion: MaskDiffusion) -> None:
        super().__init__()
        self.logits = diffusion.prediction == "logits"

    def forward(self, prediction_BSCHW: Tensor, target_BSCHW: Tensor) -> Tensor:
        """Return the scalar loss; the target's last channel is the weight of each slice."""
        target, weight = target_BSCHW[:, :, :-1], target_BSCHW[:, :, -1:]
        if self.logits:
            label = target[:, :, 0].long()
            error = F.cross_entropy(prediction_BSCHW.movedim(2, 1), label, reduction="none")
            error = error[:, :, None]
        else:
            error = (prediction_BSCHW - target) ** 2
        return (weight * error).sum() / (weight.sum() * error.shape[2]).clamp(min=1)
