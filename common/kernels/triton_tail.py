"""One move of a sampler in one launch: guidance, estimates, update, noise, known slices.

B samples of E elements, laid out as up to four axes that all tensors step through evenly. A program
takes consecutive elements, four per counter of the noise.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from common.kernels.launch import OPTIONS, ceil_div, collapse, on_device
from common.kernels.table import WIDTH, Known, TailTable
from common.kernels.triton_philox import normals

COUNTERS = 256  # per program, four elements each
AXES, PASSES = 4, 4


@triton.jit
def _offset(e, d_1, d_2, d_3, s_0, s_1, s_2, s_3, AXES: tl.constexpr):
    """Where the elements e of a sample lie in a tensor of up to four axes, the last the fastest."""
    if AXES == 1:
        place = e.to(tl.int64) * s_3
    elif AXES == 2:
        place = (e % d_3).to(tl.int64) * s_3 + (e // d_3).to(tl.int64) * s_2
    else:
        place = (e % d_3).to(tl.int64) * s_3
        e = e // d_3
        place += (e % d_2).to(tl.int64) * s_2
        e = e // d_2
        if AXES == 3:
            place += e.to(tl.int64) * s_1
        else:
            place += (e % d_1).to(tl.int64) * s_1 + (e // d_1).to(tl.int64) * s_0
    return place


@triton.jit(do_not_specialize=["row"])
def tail_kernel(
    x, new, last, outputs, known, known_mask, keys, numbers, words, row_at, row,
    weight_0, weight_1, weight_2, weight_3, size, d_1, d_2, d_3,
    out_pass, out_b, out_0, out_1, out_2, out_3,
    known_b, known_0, known_1, known_2, known_3, mask_b, mask_0, mask_1, mask_2, mask_3,
    PASSES: tl.constexpr, AXES: tl.constexpr, CLIPPED: tl.constexpr, LAST: tl.constexpr,
    KNOWN: tl.constexpr, KEYS: tl.constexpr, ROW_AT: tl.constexpr,
    WIDTH: tl.constexpr, COUNTERS: tl.constexpr,
):  # fmt: skip
    """Take the state x to `new`; see `common.kernels.table` for the numbers of a row."""
    parts = (size + 4 * COUNTERS - 1) // (4 * COUNTERS)
    sample = tl.program_id(0).to(tl.int64) // parts
    part = tl.program_id(0) % parts
    block = part * COUNTERS + tl.arange(0, COUNTERS)
    e = part * (4 * COUNTERS) + tl.arange(0, 4 * COUNTERS)
    inside = e < size
    if ROW_AT:  # noqa: SIM108 - one branch is compiled
        move = tl.load(row_at).to(tl.int64)
    else:
        move = tl.cast(row, tl.int64)
    number, word = numbers + move * WIDTH, words + move * 2
    here = sample * size + e
    value = tl.load(x + here, mask=inside, other=0.0)
    state = tl.load(number + 4) * value
    if PASSES > 0:
        at = outputs + sample * out_b + _offset(e, d_1, d_2, d_3, out_0, out_1, out_2, out_3, AXES)
        out = weight_0 * tl.load(at, mask=inside, other=0.0).to(tl.float32)
        if PASSES > 1:
            out += weight_1 * tl.load(at + out_pass, mask=inside, other=0.0).to(tl.float32)
        if PASSES > 2:
            out += weight_2 * tl.load(at + 2 * out_pass, mask=inside, other=0.0).to(tl.float32)
        if PASSES > 3:
            out += weight_3 * tl.load(at + 3 * out_pass, mask=inside, other=0.0).to(tl.float32)
        x_0 = tl.load(number) * value + tl.load(number + 1) * out
        if CLIPPED:
            low, high = tl.load(number + 11), tl.load(number + 12)
            # comparisons, not minimum and maximum: a state that is not a number must stay so
            x_0 = tl.where(x_0 < low, low, tl.where(x_0 > high, high, x_0))
            out = x_0
        eps = tl.load(number + 2) * value + tl.load(number + 3) * out
        state += tl.load(number + 5) * x_0 + tl.load(number + 6) * eps
        if LAST:
            by_last = tl.load(number + 7)
            # before the first network call there is nothing in it
            before = tl.load(last + here, mask=inside & (e * 0.0 + by_last != 0.0), other=0.0)
            state += by_last * before
            tl.store(last + here, x_0, mask=inside)
    if KEYS:
        std = tl.load(number + 8)
        if std != 0.0:
            state += std * normals(keys + sample * 4, tl.load(word), block)
    if KNOWN:
        at = known + sample * known_b
        at += _offset(e, d_1, d_2, d_3, known_0, known_1, known_2, known_3, AXES)
        wanted = tl.load(number + 9) * tl.load(at, mask=inside, other=0.0).to(tl.float32)
        if KEYS:
            sigma = tl.load(number + 10)
            if sigma != 0.0:
                wanted += sigma * normals(keys + sample * 4, tl.load(word + 1), block)
        at = known_mask + sample * mask_b
        at += _offset(e, d_1, d_2, d_3, mask_0, mask_1, mask_2, mask_3, AXES)
        state = tl.where(tl.load(at, mask=inside, other=0) != 0, wanted, state)
    tl.store(new + here, state, mask=inside)


def sampler_tail(
    x: Tensor,
    table: TailTable,
    row: int | Tensor,
    outputs: Tensor | None,
    weights: Sequence[float],
    known: Known | None,
    keys_B4: Tensor | None,
    last: Tensor | None,
) -> Tensor:
    """Launch the kernel; `common.kernels.sampler_tail` for a contiguous x and last."""
    new = torch.empty_like(x)
    passes = 0 if outputs is None else len(weights)
    out = x if outputs is None else outputs[: len(x)]
    data, mask = (x, x) if known is None else (k.expand(x.shape) for k in known)
    mask = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
    sizes, steps = collapse(x.shape[1:], *(part.stride()[1:] for part in (x, out, data, mask)))
    if len(sizes) > AXES:
        whole = None if outputs is None else outputs.contiguous()
        copied = None if known is None else Known(*(k.expand(x.shape).contiguous() for k in known))
        return sampler_tail(x, table, row, whole, weights, copied, keys_B4, last)
    sizes = [1] * (AXES - len(sizes)) + sizes
    _, out_s, data_s, mask_s = ([0] * (AXES - len(step)) + step for step in steps)
    factors = [*weights, *[0.0] * (PASSES - len(weights))]
    size = x[0].numel()
    programs = len(x) * ceil_div(size, 4 * COUNTERS)
    with on_device(x):
        tail_kernel[(programs,)](
            x, new, x if last is None else last, x if outputs is None else outputs, data, mask,
            table.words if keys_B4 is None else keys_B4, table.numbers, table.words,
            row if isinstance(row, Tensor) else table.words, 0 if isinstance(row, Tensor) else row,
            *factors, size, *sizes[1:],
            len(x) * out.stride(0), out.stride(0), *out_s,
            data.stride(0), *data_s, mask.stride(0), *mask_s,
            passes, sum(s > 1 for s in sizes) or 1, table.clipped, last is not None,
            known is not None, keys_B4 is not None, isinstance(row, Tensor), WIDTH, COUNTERS,
            **OPTIONS,
        )  # fmt: skip
    return new
