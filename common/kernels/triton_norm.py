"""Group normalisation, modulation and SiLU in Triton.

N samples, C channels of G groups, S elements of a plane. A small group is read once by one program;
of a large one many programs make partial statistics first (mean and sum of squared deviations, so
that a large mean costs no digits), one joins them, and all normalise. Statistics and arithmetic are
float32 whatever the inputs are.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from common.kernels.launch import OPTIONS, ceil_div, on_device, plane_strides, power_of_two
from common.kernels.reference import Modulation

WHOLE = 8192  # elements of a group that one program keeps in registers
TILE = 4096
PROGRAMS = 1024  # enough to fill any GPU


@triton.jit
def _modulated(
    y, n, c, s, mask, scale, shift, scale_n, scale_c, scale_s, shift_n, shift_c, shift_s
):
    a = tl.load(scale + n * scale_n + c * scale_c + s * scale_s, mask=mask, other=0.0)
    b = tl.load(shift + n * shift_n + c * shift_c + s * shift_s, mask=mask, other=0.0)
    return y * a.to(tl.float32) + b.to(tl.float32)


@triton.jit
def _finished(
    y, n, c, s, mask, weight, bias,
    a_scale, a_shift, a_scale_n, a_scale_c, a_scale_s, a_shift_n, a_shift_c, a_shift_s,
    b_scale, b_shift, b_scale_n, b_scale_c, b_scale_s, b_shift_n, b_shift_c, b_shift_s,
    inside, AFFINE: tl.constexpr, MODULATIONS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """What follows the normalisation: weight and bias, modulations, SiLU."""
    if AFFINE:
        y = y * tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
        y = y + tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    if MODULATIONS > 0:
        y = _modulated(
            y, n, c, s, mask, a_scale, a_shift,
            a_scale_n, a_scale_c, a_scale_s, a_shift_n, a_shift_c, a_shift_s,
        )  # fmt: skip
    if MODULATIONS > 1:
        y = _modulated(
            y, n, c, s, mask, b_scale, b_shift,
            b_scale_n, b_scale_c, b_scale_s, b_shift_n, b_shift_c, b_shift_s,
        )  # fmt: skip
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    return y


@triton.jit
def whole_kernel(
    x, out, weight, bias,
    a_scale, a_shift, a_scale_n, a_scale_c, a_scale_s, a_shift_n, a_shift_c, a_shift_s,
    b_scale, b_shift, b_scale_n, b_scale_c, b_scale_s, b_shift_n, b_shift_c, b_shift_s,
    x_n, x_c, x_s, out_n, out_c, out_s, groups, size, eps,
    AFFINE: tl.constexpr, MODULATIONS: tl.constexpr, SILU: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Normalise one group of one sample, which fits a tile."""
    program = tl.program_id(0).to(tl.int64)
    n, g = program // groups, program % groups
    c_in = tl.arange(0, BLOCK_C)[:, None]
    c = g * WIDTH + c_in
    s = tl.arange(0, BLOCK_S).to(tl.int64)[None, :]
    mask = (c_in < WIDTH) & (s < size)
    value = tl.load(x + n * x_n + c * x_c + s * x_s, mask=mask, other=0.0).to(tl.float32)
    count = tl.cast(WIDTH * size, tl.float32)
    mean = tl.sum(tl.sum(value, axis=1), axis=0) / count
    apart = tl.where(mask, value - mean, 0.0)
    variance = tl.sum(tl.sum(apart * apart, axis=1), axis=0) / count
    y = _finished(
        apart / tl.sqrt(variance + eps), n, c, s, mask, weight, bias,
        a_scale, a_shift, a_scale_n, a_scale_c, a_scale_s, a_shift_n, a_shift_c, a_shift_s,
        b_scale, b_shift, b_scale_n, b_scale_c, b_scale_s, b_shift_n, b_shift_c, b_shift_s,
        c_in < WIDTH, AFFINE, MODULATIONS, SILU,
    )  # fmt: skip
    place = out + n * out_n + c * out_c + s * out_s
    tl.store(place, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def partial_kernel(
    x, means, squares, x_n, x_c, x_s, channels, size, parts, steps,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each channel over one part of the plane."""
    program = tl.program_id(0).to(tl.int64)
    p = program % parts
    blocks = (channels + BLOCK_C - 1) // BLOCK_C
    n = program // parts // blocks
    c = (program // parts % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = p * steps * BLOCK_S
    span = tl.minimum(size - first, steps * BLOCK_S)
    mean = tl.zeros([BLOCK_C], dtype=tl.float32)
    square = tl.zeros([BLOCK_C], dtype=tl.float32)
    for i in range(steps):
        s = i * BLOCK_S + tl.arange(0, BLOCK_S)
        mask = (c < channels)[:, None] & (s < span)[None, :]
        place = x + n * x_n + c[:, None] * x_c + (first + s)[None, :] * x_s
        value = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        before = tl.minimum(i * BLOCK_S, span).to(tl.float32)
        count = tl.minimum((i + 1) * BLOCK_S, span).to(tl.float32)
        new = count - before
        new_mean = tl.sum(value, axis=1) / tl.maximum(new, 1.0)
        apart = tl.where(mask, value - new_mean[:, None], 0.0)
        delta = new_mean - mean
        share = new / count
        square = square + tl.sum(apart * apart, axis=1) + delta * delta * before * share
        mean = mean + delta * share
    place = (n * parts + p) * channels + c
    tl.store(means + place, mean, mask=c < channels)
    tl.store(squares + place, square, mask=c < channels)


@triton.jit
def join_kernel(
    means, squares, mean_out, rstd_out, channels, groups, size, parts, span, eps,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean and reciprocal standard deviation of one group of one sample, from its parts."""
    program = tl.program_id(0).to(tl.int64)
    n, g = program // groups, program % groups
    width = channels // groups
    p = tl.arange(0, BLOCK_P).to(tl.int64)[:, None]
    c = tl.arange(0, BLOCK_C).to(tl.int64)[None, :]
    mask = (p < parts) & (c < width)
    place = (n * parts + p) * channels + g * width + c
    part_mean = tl.load(means + place, mask=mask, other=0.0)
    part_square = tl.load(squares + place, mask=mask, other=0.0)
    count = tl.where(mask, tl.minimum(size - p * span, span), 0).to(tl.float32)
    total = tl.cast(width * size, tl.float32)
    mean = tl.sum(tl.sum(count * part_mean, axis=1), axis=0) / total
    apart = tl.where(mask, part_mean - mean, 0.0)
    square = tl.sum(tl.sum(part_square + count * apart * apart, axis=1), axis=0)
    tl.store(mean_out + program, mean)
    tl.store(rstd_out + program, 1.0 / tl.sqrt(square / total + eps))


@triton.jit
def apply_kernel(
    x, out, mean, rstd, weight, bias,
    a_scale, a_shift, a_scale_n, a_scale_c, a_scale_s, a_shift_n, a_shift_c, a_shift_s,
    b_scale, b_shift, b_scale_n, b_scale_c, b_scale_s, b_shift_n, b_shift_c, b_shift_s,
    x_n, x_c, x_s, out_n, out_c, out_s, channels, groups, size,
    AFFINE: tl.constexpr, MODULATIONS: tl.constexpr, SILU: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Normalise a tile with the statistics of its groups."""
    program = tl.program_id(0).to(tl.int64)
    s_blocks = (size + BLOCK_S - 1) // BLOCK_S
    c_blocks = (channels + BLOCK_C - 1) // BLOCK_C
    n = program // s_blocks // c_blocks
    c = ((program // s_blocks % c_blocks) * BLOCK_C + tl.arange(0, BLOCK_C))[:, None]
    s = ((program % s_blocks) * BLOCK_S + tl.arange(0, BLOCK_S))[None, :]
    mask = (c < channels) & (s < size)
    value = tl.load(x + n * x_n + c * x_c + s * x_s, mask=mask, other=0.0).to(tl.float32)
    group = n * groups + c // (channels // groups)
    value = value - tl.load(mean + group, mask=c < channels, other=0.0)
    value = value * tl.load(rstd + group, mask=c < channels, other=0.0)
    y = _finished(
        value, n, c, s, mask, weight, bias,
        a_scale, a_shift, a_scale_n, a_scale_c, a_scale_s, a_shift_n, a_shift_c, a_shift_s,
        b_scale, b_shift, b_scale_n, b_scale_c, b_scale_s, b_shift_n, b_shift_c, b_shift_s,
        c < channels, AFFINE, MODULATIONS, SILU,
    )  # fmt: skip
    place = out + n * out_n + c * out_c + s * out_s
    tl.store(place, y.to(out.dtype.element_ty), mask=mask)


def modulated_norm(
    x: Tensor,
    groups: int,
    modulations: Sequence[Modulation],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    silu: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Launch the kernels; `common.kernels.modulated_norm` with up to two modulations.

    Args: as there, x not empty, and
        dtype: of the result.
    """
    x, x_strides = _even(x)
    out = torch.empty_like(x, dtype=dtype)
    out_strides = plane_strides(out)
    if out_strides is None:
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        out_strides = plane_strides(out)
    assert out_strides is not None
    n, channels = x.shape[:2]
    size, width = x[0, 0].numel(), channels // groups
    affine = _affine(x, weight, bias)
    rest = (*(affine or (x, x)), *_modulation_args(x, modulations), *x_strides, *out_strides)
    flags = (affine is not None, len(modulations), silu)
    block_c, block_s = power_of_two(width), power_of_two(size)
    with on_device(x):
        if block_c * block_s <= WHOLE:
            warps = 8 if block_c * block_s > WHOLE // 4 else 4
            whole_kernel[(n * groups,)](
                x,
                out,
                *rest,
                groups,
                size,
                eps,
                *flags,
                width,
                block_c,
                block_s,
                num_warps=warps,
                **OPTIONS,
            )
            return out
        stats = _statistics(x, groups, x_strides, eps)
        block_c, block_s = _tile(x, x_strides)
        programs = n * ceil_div(channels, block_c) * ceil_div(size, block_s)
        apply_kernel[(programs,)](
            x,
            out,
            *stats,
            *rest,
            channels,
            groups,
            size,
            *flags,
            block_c,
            block_s,
            num_warps=8,
            **OPTIONS,
        )
    return out


def _statistics(
    x: Tensor, groups: int, strides: tuple[int, int, int], eps: float
) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal standard deviation of every group, (N * G,) each."""
    n, channels = x.shape[:2]
    size, width = x[0, 0].numel(), power_of_two(channels // groups)
    tile_c, tile_s = _tile(x, strides)
    rows = n * ceil_div(channels, tile_c)
    most = max(1, min(ceil_div(PROGRAMS, rows), WHOLE // width, 64))
    steps = ceil_div(ceil_div(size, tile_s), most)
    parts = ceil_div(size, steps * tile_s)
    means, squares = torch.empty(2, n * parts * channels, device=x.device).unbind()
    mean, rstd = torch.empty(2, n * groups, device=x.device).unbind()
    partial_kernel[(rows * parts,)](
        x,
        means,
        squares,
        *strides,
        channels,
        size,
        parts,
        steps,
        tile_c,
        tile_s,
        num_warps=8,
        **OPTIONS,
    )
    join_kernel[(n * groups,)](
        means, squares, mean, rstd, channels, groups, size, parts, steps * tile_s, eps,
        power_of_two(parts), width, **OPTIONS,
    )  # fmt: skip
    return mean, rstd


def _tile(x: Tensor, strides: tuple[int, int, int]) -> tuple[int, int]:
    """Channels and elements of a tile, long along what is contiguous."""
    wide_c, wide_s = power_of_two(x.shape[1]), power_of_two(x[0, 0].numel())
    if strides[1] == 1 and strides[2] != 1:
        tile_c = min(wide_c, 128)
        return tile_c, min(wide_s, TILE // tile_c)
    tile_s = min(wide_s, TILE // 2)
    return min(wide_c, TILE // tile_s), tile_s


def _even(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """A tensor of three strides; a copy where x has more."""
    strides = plane_strides(x)
    if strides is None:
        x = x.contiguous()
        strides = plane_strides(x)
    assert strides is not None
    return x, strides


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor] | None:
    if weight is None and bias is None:
        return None
    channels = x.shape[1]
    if weight is None:
        weight = torch.ones(channels, device=x.device)
    if bias is None:
        bias = torch.zeros(channels, device=x.device)
    return weight.contiguous(), bias.contiguous()


def _modulation_args(x: Tensor, modulations: Sequence[Modulation]) -> list[Tensor | int]:
    """Pointers and strides of two modulations; x stands where there is none."""
    found: list[Tensor | int] = []
    for scale, shift in modulations:
        maps = [_even(part.expand(x.shape)) for part in (scale, shift)]
        found += [*(part for part, _ in maps), *(s for _, strides in maps for s in strides)]
    missing: list[Tensor | int] = [x, x, 0, 0, 0, 0, 0, 0]
    return found + missing * (2 - len(modulations))
