"""Training windows of MC-DPM: which slices, which mode, and how conditions are disturbed.

B windows, S slices per window, D slices per volume, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.augment import WarpRanges, draw_warp, warp_grid, warp_labels
from common.engines.batches import Batch, iteration_generator, noise_like
from common.errors import MedpairError


@dataclass(frozen=True)
class Modes:
    """How often a window is continued forward, backward, or made from nothing.

    Args:
        forward, backward, unconditional: probabilities p_F, p_B, p_U; they sum to 1.
        condition_slices: number n of condition slices; None draws it from 1..m-1.

    Source: MedGen3D §3.1; the three values and n are not published.
    """

    forward: float = 0.4
    backward: float = 0.4
    unconditional: float = 0.2
    condition_slices: int | None = None

    def __post_init__(self) -> None:
        shares = (self.forward, self.backward, self.unconditional)
        if abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
            raise MedpairError(
                f"modes: p_F, p_B, p_U are {shares}, wanted 0..1 with sum 1; correct the config"
            )

    def draw(self, window: int, generator: torch.Generator) -> Tensor:
        """Return which of the ``window`` slices are condition slices, bool (S,)."""
        known = torch.zeros(window, dtype=torch.bool)
        mode = float(torch.rand((), generator=generator))
        n = self.condition_slices or int(torch.randint(1, window, (), generator=generator))
        if mode < self.forward:
            known[:n] = True
        elif mode < self.forward + self.backward:
            known[window - n :] = True
        return known


@dataclass
class AugmentedVolumes:
    """Deformed and mirrored copies of the training masks; a copy is made on first use and kept.

    Args:
        labels: masks (D, H, W), uint8; in-plane size equal, depths may differ.
        flip_lut: label ids after a left/right flip (the last axis), None for no flips.
        num_classes: number of classes K.
        copies: deformed copies per mask; 0 uses the masks as they are.
        ranges: ranges of the deformation.
        seed: with the numbers of mask and copy it fixes the deformation.
    """

    labels: Sequence[Tensor]
    flip_lut: Tensor | None
    num_classes: int
    copies: int = 64
    ranges: WarpRanges = field(default_factory=WarpRanges)
    seed: int = 0
    _made: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return one training volume (D, H, W), uint8."""
        index = int(torch.randint(len(self.labels), (), generator=generator))
        copy = int(torch.randint(max(1, self.copies), (), generator=generator))
        mirrored = float(torch.rand((), generator=generator)) < 0.5
        label = self.labels[index] if not self.copies else self._copy(index, copy)
        if mirrored and self.flip_lut is not None:
            return self.flip_lut[label.flip(-1).long()]
        return label

    def _copy(self, index: int, copy: int) -> Tensor:
        if (index, copy) not in self._made:
            generator = iteration_generator(self.seed + 1 + index, copy)
            label = self.labels[index]
            size = (label.shape[0], label.shape[1], label.shape[2])
            warp = draw_warp(self.ranges, generator).to(label.device)
            grid = warp_grid(warp, size, range(size[0]))
            self._made[index, copy] = warp_labels(label, grid, self.num_classes)
        return self._made[index, copy]


class WindowBatches:
    """Draw batches of mask windows.

    Args:
        volumes: where the masks come from.
        window: slices S per window (m in the paper).
        batch_size: windows B per batch.
        modes: forward, backward and unconditional shares.
        boundary_noise: share of windows whose condition slices get disturbed borders, against
            drift when generated slices become conditions.

    Source: MedGen3D §3.1, training step 1-2.
    """

    def __init__(
        self,
        volumes: AugmentedVolumes,
        window: int,
        batch_size: int,
        modes: Modes | None = None,
        boundary_noise: float = 0.5,
    ) -> None:
        shallow = min(label.shape[0] for label in volumes.labels)
        if shallow < window:
            raise MedpairError(
                f"a training mask has {shallow} slices, wanted at least window={window}; "
                "prepare deeper volumes or set a smaller window"
            )
        n = modes.condition_slices if modes else None
        if window < 2 or (n is not None and not 1 <= n < window):
            raise MedpairError(
                f"window is {window} and modes#condition_slices {n}, wanted window >= 2 and null "
                "or 1..window-1; correct the config"
            )
        self.volumes, self.window, self.batch_size = volumes, window, batch_size
        self.modes, self.boundary_noise = modes or Modes(), boundary_noise

    def __call__(self, generator: torch.Generator) -> Batch:
        """Return one batch.

        Returns:
            ``label`` (B,S,H,W), ``condition`` (the disturbed label), ``known`` (B,S) and
            ``position`` (B,2) = (z/D, 1/D).
        """
        rows = [self._one(generator) for _ in range(self.batch_size)]
        label, condition, known, position = (
            torch.stack(column) for column in zip(*rows, strict=True)
        )
        return {"label": label, "condition": condition, "known": known, "position": position}

    def _one(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        volume = self.volumes.draw(generator)
        depth = volume.shape[0]
        z = int(torch.randint(depth - self.window + 1, (), generator=generator))
        label = volume[z : z + self.window]
        known = self.modes.draw(self.window, generator)
        disturb = float(torch.rand((), generator=generator)) < self.boundary_noise
        condition = label
        if disturb and bool(known.any()):
            condition = disturb_borders(label, self.volumes.num_classes, generator)
        return label, condition, known, torch.tensor([z / depth, 1 / depth])


def disturb_borders(label_SHW: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Move label borders by about a pixel: blurred class scores plus noise, then the largest.

    Args:
        label_SHW: labels, uint8.
        num_classes: number of classes K.
        generator: source of the noise.

    Returns:
        Labels (S, H, W), uint8; pixels inside homogeneous regions keep their label.
    """
    one_hot = F.one_hot(label_SHW.long(), num_classes).movedim(-1, 1).float()
    blurred = F.avg_pool2d(one_hot, 3, stride=1, padding=1, count_include_pad=False)
    noise = noise_like(blurred, generator) * 0.15
    scores = 0.4 * one_hot + 0.6 * blurred + noise * (blurred * (1 - blurred) > 0)
    return scores.argmax(dim=1).to(torch.uint8)
