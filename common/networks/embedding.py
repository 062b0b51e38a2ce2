"""Sinusoidal embeddings of diffusion times and slice positions.

B batch, E embedding width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoid(value_B: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Embed scalars as sines and cosines of geometrically spaced frequencies.

    Args:
        value_B: values, shape (B,), any real range (time steps 0..T, positions times 1000).
        width: even embedding width E.
        max_period: longest period, in the unit of the values.

    Returns:
        float32 tensor (B, E).

    Source: Vaswani et al. 2017 (1706.03762) §3.5, as used for time steps by DDPM (2006.11239).
    """
    half = width // 2
    rate = torch.exp(-math.log(max_period) * torch.arange(half, device=value_B.device) / half)
    angle_BE = value_B.float()[:, None] * rate[None, :]
    return torch.cat([angle_BE.cos(), angle_BE.sin()], dim=1)


class ConditionEmbedding(nn.Module):
    """Embed the time step together with further scalars and project them to one vector.

    Args:
        width: width of each sinusoid.
        embedding: width E of the output.
        num_scalars: how many scalars besides the time step are embedded.

    Source: MedGen3D §3.1 (the position z/D is embedded and concatenated with the time embedding).
    """

    def __init__(self, width: int, embedding: int, num_scalars: int = 0) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Sequential(
            nn.Linear(width * (1 + num_scalars), embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )

    def forward(self, timesteps_B: Tensor, scalars_BN: Tensor | None = None) -> Tensor:
        """Return the (B, E) embedding of time steps (B,) and scalars in [0, 1], (B, N)."""
        columns = [timesteps_B]
        if scalars_BN is not None:
            columns += [1000.0 * column for column in scalars_BN.unbind(1)]
        parts = [sinusoid(column, self.width) for column in columns]
        embedded: Tensor = self.project(torch.cat(parts, dim=1))
        return embedded


def slice_positions(k: Tensor, n: int) -> Tensor:
    """Return k/n and 1/n of slices k of n, (..., 2)."""
    place = k / n
    return torch.stack([place, torch.full_like(place, 1 / n)], dim=-1)
