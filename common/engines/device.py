"""Where networks run, and how they and their data lie there."""

from __future__ import annotations

import logging

import torch
from torch import nn

from common.data.datasets import Arrays
from common.engines.compiled import check_compiler

CACHE_SHARE = 0.4
"""Share of a device's free memory that volumes and their copies may take."""
BYTES = 5
"""Of a voxel in memory: image float32, label uint8."""


def pick_device() -> torch.device:
    """Return the first CUDA device, or the CPU where there is none."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def on_device(
    network: nn.Module,
    device: torch.device | str,
    channels_last: bool = True,
    compile: bool | str = False,
) -> nn.Module:
    """Return a network ready for training on a device; the names of its weights do not change.

    Args:
        network: to be trained.
        device: where it goes.
        channels_last: lay its 2D kernels out that way, which convolutions on CPUs and on the
            matrix units of GPUs are fastest with.
        compile: have torch.compile make its forward and backward pass; a text names the backend.
            Copies of the network, such as its average, are not compiled.
    """
    if channels_last:
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        network.to(device=device)
    if compile:
        if compile is True:
            check_compiler(device)
        network.compile(backend="inductor" if compile is True else compile)
    return network


def data_device(wanted: torch.device | str, data: Arrays, copies: int = 0) -> torch.device:
    """Return where volumes are kept: where it is wanted, or on the CPU where they do not fit.

    Args:
        wanted: the CPU, or the device of the training.
        data: the volumes.
        copies: changed copies of each that are kept, too.
    """
    device = torch.device(wanted)
    if device.type != "cuda":
        return device
    needed = BYTES * sum(label.size for label in data.labels) * (1 + copies)
    free, _ = torch.cuda.mem_get_info(device)
    if needed <= CACHE_SHARE * free:
        return device
    logging.getLogger(__name__).warning(
        "volumes and copies: %.1f GiB, more than %.0f %% of the %.1f GiB free on %s; they stay in "
        "the CPU's memory",
        needed / 2**30,
        100 * CACHE_SHARE,
        free / 2**30,
        device,
    )
    return torch.device("cpu")
