"""Run the generator along training sequences, every new slice from the generated ones before it.

B sequences, S slices, P past images, C channels, H, W size.
"""

from __future__ import annotations

import torch

from vid2vid.generator import SliceOutput
from vid2vid.sequences import SequenceBatch


def rollout(network: torch.nn.Module, batch: SequenceBatch, backprop: int = 1) -> SliceOutput:
    """Generate all slices of the sequences.

    Args:
        network: `SliceGenerator` or a wrapper with the same call.
        batch: the sequences.
        backprop: slices through which the gradient flows back; 1 (as published) only the slice
            itself.

    Returns:
        The outputs with a slice axis: image (B, S, C, H, W) and so on.

    Source: Vid2Vid (1808.06601) §3, sequential generation.
    """
    slices = batch.image.shape[1]
    window = batch.label.shape[1] - slices + 1
    past, has_past = batch.past, batch.has_past
    outputs = []
    for k in range(slices):
        labels = batch.label[:, k : k + window]
        out = network(labels, past, has_past, batch.position[:, k], batch.style)
        outputs.append(out)
        image = out.image.detach() if (k + 1) % backprop == 0 else out.image
        past = torch.cat([image[:, None], past[:, :-1]], dim=1)
        has_past = torch.cat([torch.ones_like(has_past[:, :1]), has_past[:, :-1]], dim=1)
    return SliceOutput(*(torch.stack(parts, dim=1) for parts in zip(*outputs, strict=True)))


def real_previous(batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the real slice before each slice (B, S, C, H, W) and whether it is known (B, S)."""
    previous = torch.cat([batch.past[:, :1], batch.image[:, :-1]], dim=1)
    known = torch.ones(batch.image.shape[:2], dtype=torch.bool, device=batch.image.device)
    known[:, 0] = batch.has_past[:, 0]
    return previous, known
