"""Oracle: Gaussian slices with a known covariance have an analytic denoiser.

Legend: B samples, D slices (one number per slice, so a window is (B, D)).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from common.diffusion.schedules import FlowSchedule, Schedule, cosine

F64 = torch.float64


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Slices drawn from N(mean, cov); mean may be per sample, (B, D)."""

    mean: Tensor
    cov: Tensor
    gains: dict[float, Tensor] = field(default_factory=dict)  # by alpha, of one schedule

    def condition(self, known: list[int], values: Tensor) -> "Gaussian":
        """The law of the other slices given the known ones, values (..., len(known))."""
        other = [d for d in range(len(self.cov)) if d not in known]
        cross = self.cov[other][:, known]
        gain = cross @ torch.linalg.inv(self.cov[known][:, known])
        mean = self.mean[..., other] + (values - self.mean[..., known]) @ gain.T
        return Gaussian(mean, self.cov[other][:, other] - gain @ cross.T)

    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x_0 | x_t]."""
        if alpha not in self.gains:
            total = alpha**2 * self.cov + sigma**2 * torch.eye(len(self.cov), dtype=F64)
            self.gains[alpha] = alpha * self.cov @ torch.linalg.inv(total)
        gain, mean = self.gains[alpha].to(x_t), self.mean.to(x_t)
        return mean + (x_t - alpha * mean) @ gain.T

    def denoiser(
        self, schedule: Schedule, prediction: str = "x0"
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The perfect network of this law for one prediction type."""

        def network(x_t: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = schedule.alpha_sigma(int(t[0]))
            x_0 = self.denoise(x_t, alpha, sigma)
            if prediction == "x0":
                return x_0
            eps = (x_t - alpha * x_0) / sigma
            return {"eps": eps, "v": alpha * eps - sigma * x_0, "flow": x_0 - eps}[prediction]

        return network

    def exact_moments(self, run: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and covariance of run(x_T, noise), without chance.

        With an analytic Gaussian denoiser a sampler is affine in its draws. All draws zero give
        the mean; each draw in turn set to the unit vectors gives a square root of the covariance.
        """
        depth, draws = len(self.cov), {}

        def zeros(move: int, purpose: str) -> Tensor:
            draws.setdefault((move, purpose), len(draws) + 1)
            return torch.zeros(1, depth, dtype=F64)

        mean = run(torch.zeros(1, depth, dtype=F64), zeros)

        def unit(index: int) -> Tensor:
            z = torch.zeros(len(draws) + 1, depth, depth, dtype=F64)
            z[index] = torch.eye(depth, dtype=F64)
            return z.flatten(0, 1)

        root = run(unit(0), lambda move, purpose: unit(draws[move, purpose])) - mean
        return mean[0], root.T @ root


def make_gaussian(depth: int) -> Gaussian:
    """Neighbouring slices correlate by exp(-1/2): a Markov chain along the depth."""
    i = torch.arange(depth, dtype=F64)
    return Gaussian(
        torch.linspace(-0.5, 0.8, depth, dtype=F64), 0.5 * torch.exp(-(i[:, None] - i).abs() / 2)
    )


@pytest.fixture
def gaussian() -> Callable[[int], Gaussian]:
    return make_gaussian


@pytest.fixture
def schedule_for() -> Callable[[str], Schedule]:
    """The schedule that a sampler of that name runs on."""
    return lambda name: FlowSchedule(1000) if name == "rectified_flow" else cosine()
