"""Start and stop of a run with several processes, on CUDA devices or on the CPU."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn


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


def average_gradients(module: nn.Module) -> None:
    """Average a module's gradients over the processes; nothing happens in a single process.

    A gradient that a process lacks counts as zero, as where each draws another view and so trains
    another network; one that all lack stays absent, so that the optimiser leaves its weights alone.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    parameters = list(module.parameters())
    present = torch.tensor([p.grad is not None for p in parameters]).int()
    present = present.to(parameters[0].device)
    dist.all_reduce(present, dist.ReduceOp.MAX)  # all processes then average the same ones
    for parameter, anywhere in zip(parameters, present.tolist(), strict=True):
        if not anywhere:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def rank() -> int:
    """Return the number of this process, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """Return the number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def from_first(value: float) -> float:
    """Return the number that the first process holds, in all processes."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    told = torch.tensor([value], dtype=torch.float64, device=local_device())
    dist.broadcast(told, 0)
    return float(told.item())


class AverageGradients:
    """Average the gradients between backward and optimiser step.

    Networks start equal in all processes because the seed is; DistributedDataParallel would put
    its own module around the network that EMA, checkpoints and weight files would have to undo.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._average)

    def _average(self) -> None:
        average_gradients(self.network)
