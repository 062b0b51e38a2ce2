"""Masks as MONAI's inferers make them: for volumes whose size alone counts."""

from __future__ import annotations

from typing import Any

import torch

from mcdpm.inferers import GridInferer
from mcdpm.stage import MaskStage

DEPTH, SIZE = 20, (8, 6)


def test_masks_are_as_large_as_the_input(make: Any) -> None:
    label, diffusion = make.label(DEPTH), make.diffusion()
    sampler = make.sampler(diffusion, num_steps=1, size=SIZE)
    network = make.oracle(label, diffusion)
    stage = MaskStage(network, sampler, "brain4", clean=False)
    inferer = GridInferer(stage, (4.0, 4.0, 4.0), seed=5, start=3)
    found = inferer(torch.rand(2, 1, DEPTH, *SIZE), network)
    assert found.dtype == torch.uint8
    assert torch.equal(found, label.expand(2, 1, -1, -1, -1))
    larger = inferer(torch.zeros(1, 3, DEPTH, 16, 12), network, torch.tensor([7]))
    assert larger.shape == (1, 1, DEPTH, 16, 12)


def test_seed_and_number_say_which_mask(make: Any) -> None:
    diffusion = make.diffusion()
    network = make.denoiser()
    sampler = make.sampler(diffusion, num_steps=2, size=SIZE)
    stage = MaskStage(network, sampler, "brain4", clean=False)
    space = torch.zeros(2, 1, DEPTH, *SIZE)
    spacing = (4.0, 4.0, 4.0)
    first = GridInferer(stage, spacing, seed=5)(space, network)
    assert torch.equal(first[1:], GridInferer(stage, spacing, seed=5)(space[:1], network, [1]))
    assert not torch.equal(first, GridInferer(stage, spacing, seed=6)(space, network))
