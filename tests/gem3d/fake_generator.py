"""A stand-in for the trained generator: intensity per label, the informed slice's gain, noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.diffusion.rng import STAGES, normal
from gem3d.generate import Context, InformedSlice

LEVELS = torch.tensor([0.0, 0.5, 0.55, 0.8, 0.2, 0.4])


@dataclass
class FakeGenerator:
    """Volumes whose brightness follows the informed slice; noise keyed by seed and volume."""

    noise: float = 0.02
    calls: list[tuple[int, ...]] = field(default_factory=list)
    informed: list[InformedSlice] = field(default_factory=list)
    broken: bool = False

    def __call__(
        self,
        label_VDHW: Tensor,
        informed: Sequence[InformedSlice],
        *,
        volumes: Sequence[int],
        seed: int,
        context: Context | None = None,
    ) -> Tensor:
        self.calls.append(tuple(volumes))
        self.informed += informed
        unit = LEVELS[label_VDHW.long()]
        gain = torch.stack([((s.image_HW + 1) / 2).mean() * 3 for s in informed])
        unit = unit * gain[:, None, None, None].clamp(0.2, 1.2)
        drawn = normal(
            seed,
            volume=volumes,
            stage=STAGES["gem3d"],
            window=[0] * len(volumes),
            step=0,
            shape=label_VDHW.shape[1:],
        )
        image = (2 * (unit + self.noise * drawn * (label_VDHW > 0)) - 1).clamp(-1, 1)
        for row, slice_ in enumerate(informed):
            if slice_.impose:
                image[row, slice_.index] = slice_.image_HW
        if context is not None:
            image = torch.where(context.known_VDHW, context.image_VDHW, image)
        return image * float("nan") if self.broken else image

    def joints(self, depth: int, start: int) -> tuple[int, ...]:
        """As if windows of eight slices began at the informed slice."""
        return tuple(range(8, depth, 8))


def fake_slices(
    position: Sequence[float],
    size: tuple[int, int],
    *,
    volumes: Sequence[int],
    seed: int,
    attempt: int = 0,
) -> Tensor:
    """Discs whose radius grows with every attempt."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    radius = 2.0 + 2 * attempt
    disc = (y - height / 2) ** 2 + (x - width / 2) ** 2 <= radius**2
    return torch.where(disc, 0.2, -1.0)[None].repeat(len(position), 1, 1)
