"""How tensors are laid out for the kernels, and on which device they are launched."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

OPTIONS = {"enable_fp_fusion": False}  # products and sums round one by one, as in the reference
LIMIT = 2**31 - 2**16  # of what a kernel counts in 32 bits, with room for the last block


def power_of_two(n: int) -> int:
    """Return the smallest power of two >= n, n >= 1."""
    return 1 << (n - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)


def on_device(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Make the device of x the current one: Triton launches there."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def collapse(sizes: Sequence[int], *strides: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Merge neighbouring axes that all tensors step through evenly.

    Args:
        sizes: of the axes.
        *strides: of each tensor, one per axis; 0 where it is broadcast.

    Returns:
        The fewest axes (at least one) and the strides of each tensor along them.
    """
    merged: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(sizes):
        if size == 1:
            continue
        here = [stride[axis] for stride in strides]
        even = bool(merged) and all(s[-1] == h * size for s, h in zip(steps, here, strict=True))
        if even:
            merged[-1] *= size
        else:
            merged.append(size)
        for step, h in zip(steps, here, strict=True):
            if even:
                step[-1] = h
            else:
                step.append(h)
    if not merged:
        return [1], [[0] for _ in strides]
    return merged, steps


def plane_strides(x: Tensor) -> tuple[int, int, int] | None:
    """Return the strides of (N, C, *spatial) over samples, channels and elements of the plane.

    None where the spatial axes have no common stride.
    """
    sizes, (steps,) = collapse(x.shape[2:], x.stride()[2:])
    return (x.stride(0), x.stride(1), steps[0]) if len(sizes) == 1 else None
