"""A kernel that only draws words, to look at them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from common.kernels.triton_philox import random_words


@triton.jit
def words_kernel(numbers, out, COUNT: tl.constexpr):
    block = tl.arange(0, COUNT)
    volume, window, draw = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    low, high = tl.load(numbers + 3), tl.load(numbers + 4)
    a, b, c, d = random_words(volume, window, draw, block, low, high)
    tl.store(out + block * 4, a.to(tl.int64))
    tl.store(out + block * 4 + 1, b.to(tl.int64))
    tl.store(out + block * 4 + 2, c.to(tl.int64))
    tl.store(out + block * 4 + 3, d.to(tl.int64))


def words(
    counter: tuple[int, int, int], count: int, key: tuple[int, int], device: torch.device
) -> Tensor:
    """Words of the counters (*counter, 0 .. count - 1), (count, 4) int64."""
    numbers = torch.tensor([*counter, *key], dtype=torch.int64, device=device)
    out = torch.empty(count, 4, dtype=torch.int64, device=device)
    words_kernel[(1,)](numbers, out, count)
    return out
