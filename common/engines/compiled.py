"""Compilation of the networks that a sampler calls at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.errors import MedpairError


def compile_steps(network: nn.Module) -> int:
    """Let torch.compile make the modules that samplers call at every step faster, in place.

    Those are the ones whose class says ``called_per_step``; parameters keep their names. Shapes
    are taken as static. On CUDA steps become CUDA graphs ("reduce-overhead"), unless the class
    says ``graphs = False``: graphs copy their inputs, and their outputs do not last.

    Args:
        network: on the device to be used.

    Returns:
        How many modules are compiled on their first call.

    Raises:
        MedpairError: if this machine cannot compile.
    """
    chosen = [module for module in network.modules() if getattr(module, "called_per_step", False)]
    device = next(network.parameters()).device
    if chosen:
        check_compiler(device)
    for module in chosen:
        graphs = device.type == "cuda" and getattr(module, "graphs", True)
        module.compile(dynamic=False, mode="reduce-overhead" if graphs else "default")
    return len(chosen)


def _twice(x: Tensor) -> Tensor:
    return x + x


def check_compiler(device: torch.device | str) -> None:
    """Compile a trifle, so that a machine without a compiler is named before the work begins.

    Raises:
        MedpairError: if it has none.
    """
    compiled: Any = torch.compile(_twice, dynamic=False)
    try:
        compiled(torch.ones(2, device=device))
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise MedpairError(
            f"compile: torch.compile fails here ({reason}); install a C++ compiler (on CUDA "
            "Triton), or leave the option out"
        ) from error
