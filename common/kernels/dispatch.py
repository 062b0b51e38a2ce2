"""Which implementation runs: Triton's on CUDA where it is proven, the reference everywhere else.

The environment variable MEDPAIR_KERNELS says "auto" (the default: as above, and one logged line
wherever CUDA tensors take the reference), "reference", or "triton", which refuses instead.
Autograd, tracing and compilation always take the reference: the kernels have no backward pass.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

from common.errors import MedpairError
from common.kernels.launch import LIMIT

VARIABLE = "MEDPAIR_KERNELS"
MODES = ("auto", "reference", "triton")
OLDEST = (3, 5)
CAPABILITY, BF16_CAPABILITY = (7, 5), (8, 0)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

log = logging.getLogger("medpair")


def use_triton(
    x: Tensor, *others: Tensor | None, limit: Callable[[], str | None] = lambda: None
) -> bool:
    """Say whether the kernels run on these tensors.

    The first use on a device runs the self-test, which waits for it: warm up before capturing a
    CUDA graph.

    Args:
        x: its device decides.
        *others: further floating point inputs and outputs.
        limit: returns what about their shapes the kernel does not take, or None.

    Raises:
        MedpairError: if MEDPAIR_KERNELS holds another word, or demands Triton where it cannot be.
    """
    mode = os.environ.get(VARIABLE, "auto")
    if mode not in MODES:
        raise MedpairError(f"{VARIABLE}: {mode!r}; want one of {', '.join(MODES)}; change it")
    if mode == "reference" or (mode == "auto" and x.device.type != "cuda"):
        return False
    tensors = [x, *(t for t in others if t is not None)]
    if _watched(tensors):
        return False
    reason = obstacle(x.device) or _unsupported(tensors) or limit()
    if reason is None:
        return True
    if mode == "triton":
        raise MedpairError(f"{VARIABLE}: 'triton', but {reason}; set it to auto or reference")
    say_once(f"kernels: plain torch instead of Triton, since {reason}")
    return False


def _watched(tensors: list[Tensor]) -> bool:
    """Whether a backward pass, a trace, a compilation or an estimate needs plain operations."""
    if detect_fake_mode(tensors) is not None:  # tensors without data, see common.engines.footprint
        return True
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return True
    return torch._C._get_tracing_state() is not None or torch.compiler.is_compiling()


def _unsupported(tensors: list[Tensor]) -> str | None:
    """What about the tensors no kernel takes, or None."""
    x = tensors[0]
    for t in tensors:
        if t.dtype not in FLOATS:
            return f"a tensor is {str(t.dtype)[6:]}, want float32, bfloat16 or float16"
        if t.device != x.device:
            return f"tensors lie on {x.device} and {t.device}, want one device"
        if t.numel() == 0 or t.numel() // max(1, len(t)) > LIMIT:
            return f"a sample of shape {tuple(t.shape)} has no elements or more than {LIMIT}"
    if x.is_cuda and any(t.dtype == torch.bfloat16 for t in tensors):
        found = torch.cuda.get_device_capability(x.device)
        if found < BF16_CAPABILITY:
            return f"bfloat16 wants CUDA capability 8.0, this GPU has {found[0]}.{found[1]}"
    return None


@functools.cache
def obstacle(device: torch.device) -> str | None:
    """Return why Triton cannot be trusted on a device, or None; looked at once per process.

    Args:
        device: with its index, where it has one.
    """
    if device.type not in ("cuda", "cpu"):
        return f"the tensors lie on {device.type}, want cuda"
    missing = _missing_triton()
    if missing is not None:
        return missing
    triton = importlib.import_module("triton")
    if device.type == "cpu":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return (
            None if interpreted else "the tensors lie on the CPU, want CUDA or TRITON_INTERPRET=1"
        )
    if torch.version.cuda is None:
        return "this torch is built for another make of GPU, want CUDA"
    found = torch.cuda.get_device_capability(device)
    if found < CAPABILITY:
        return f"the GPU has CUDA capability {found[0]}.{found[1]}, want 7.5 or more"
    from common.kernels.selftest import verdict

    return verdict(
        device, (torch.cuda.get_device_name(device), torch.__version__, triton.__version__)
    )


def _missing_triton() -> str | None:
    try:
        triton = importlib.import_module("triton")
        importlib.import_module("triton.language")
    except ImportError as error:
        return f"triton cannot be imported ({error}), want {OLDEST[0]}.{OLDEST[1]} or later"
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < OLDEST:
        return f"triton is {triton.__version__}, want {OLDEST[0]}.{OLDEST[1]} or later"
    return None


@functools.cache
def say_once(line: str) -> None:
    """Log a warning, the first time only."""
    log.warning(line)
