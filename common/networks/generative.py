"""Weights of the package monai-generative in MONAI core, where its networks are now."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

RENAMED = (
    (r"\.proj_attn\.", ".attn.out_proj."),
    (r"(attentions\.\d+|middle_block\.attention|coder\.blocks\.\d+)\.(to_[qkv])\.", r"\1.attn.\2."),
    (r"\.to_out\.0\.", ".out_proj."),
    (r"\.upsampler\.conv\.", ".upsampler.postconv."),
    (r"^(decoder\.blocks\.\d+)\.conv\.conv\.", r"\1.postconv.conv."),
    (r"\.param_free_norm\.N\.", ".param_free_norm."),
)
NEVER_USED = ".proj_attn."
"""A layer of self-attention that monai-generative makes and stores, but never calls."""


def core_weights(state: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of monai-generative 0.2 by the names of MONAI core, with equal outputs.

    MONAI core calls the projection after self-attention, which that package left out; its random
    weights in the file would change every output (MONAI's own ``load_old_state_dict`` takes them).
    The identity stands for it.

    Args:
        state: state dict of `AutoencoderKL`, `DiffusionModelUNet` or `SPADEDiffusionModelUNet`.
        known: state dict of MONAI core's network; entries of these names are taken as they are.
    """
    return {
        name if name in known else _renamed(name): _identity(value) if NEVER_USED in name else value
        for name, value in state.items()
    }


def _renamed(name: str) -> str:
    for old, new in RENAMED:
        name = re.sub(old, new, name)
    return name


def _identity(value: Tensor) -> Tensor:
    return torch.eye(len(value)).to(value) if value.ndim == 2 else torch.zeros_like(value)
