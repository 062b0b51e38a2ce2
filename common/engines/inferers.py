"""Forward passes under automatic mixed precision on any device."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor
from torch.nn import functional

from common.errors import MedpairError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BF16_TOLERANCE = 0.05
CPU_UNITS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")

log = logging.getLogger("medpair")


def resolve_precision(device: torch.device | str, precision: str) -> str:
    """Return "bf16", "fp16" or "fp32"; "auto" is bf16 where the device has units for it.

    Raises:
        MedpairError: for another precision.
    """
    if precision == "auto":
        if torch.device(device).type == "cuda":
            supported = torch.cuda.is_bf16_supported() and bf16_is_right(torch.device(device))
            return "bf16" if supported else "fp32"
        return "bf16" if any(getattr(torch.cpu, name, bool)() for name in CPU_UNITS) else "fp32"
    if precision not in DTYPES:
        raise MedpairError(f"precision is {precision!r}; use 'auto' or one of {sorted(DTYPES)}")
    return precision


@functools.cache
@torch.no_grad()
def bf16_is_right(device: torch.device) -> bool:
    """Return whether a 3D convolution in bf16 gives what it gives in fp32; logs where it does not.

    Some releases of cuDNN give wrong results (pytorch issue 163539).
    """
    count = torch.arange(8 * 9 * 10 * 11, dtype=torch.float64)
    x = torch.sin(1.37 * count).reshape(1, 8, 9, 10, 11).to(device, torch.bfloat16)
    weight = torch.sin(0.73 * count[: 8 * 8 * 27]).reshape(8, 8, 3, 3, 3) / 8
    weight = weight.to(device, torch.bfloat16)
    found = functional.conv3d(x, weight, padding=1).float()
    wanted = functional.conv3d(x.float(), weight.float(), padding=1)
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    if not difference <= BF16_TOLERANCE:
        log.warning(
            "precision: bf16 convolutions on %s differ by %.3g from fp32, wanted <= %g; fp32 is "
            "used; update torch or the driver",
            device,
            difference,
            BF16_TOLERANCE,
        )
        return False
    return True


def precision_context(device: torch.device | str, precision: str) -> torch.autocast:
    """Return the autocast context of a precision; see `resolve_precision`."""
    resolved = resolve_precision(device, precision)
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=DTYPES[resolved], enabled=resolved != "fp32")


class AutocastInferer(Inferer):
    """Call the network under autocast and return its output in float32.

    Args:
        precision: "auto", "bf16", "fp16" or "fp32".

    Why not the trainers' ``amp``: MONAI 1.6 ties it to CUDA, and bf16 is the fast path of CPUs too.
    """

    def __init__(self, precision: str = "auto") -> None:
        super().__init__()
        resolve_precision("cpu", precision)
        self.precision = precision

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return ``network(inputs, *args, **kwargs)`` as float32."""
        with precision_context(inputs.device, self.precision):
            output = network(inputs, *args, **kwargs)
        return output.float()
