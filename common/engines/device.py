"""Where networks run."""

from __future__ import annotations

import torch


def pick_device() -> torch.device:
    """Return the first CUDA device, or the CPU where there is none."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
