"""Start and stop of a run with several processes, on CUDA devices or on the CPU."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def start() -> None:
    """Join the processes that torchrun started (NCCL on CUDA, else Gloo)."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    """Leave them."""
    dist.destroy_process_group()


def local_device() -> torch.device:
    """Return this process's own CUDA device, or the CPU."""
    if torch.cuda.is_available():
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return torch.device("cpu")


def is_first() -> bool:
    """Return whether this is the process that logs and validates."""
    return int(os.environ.get("RANK", "0")) == 0
