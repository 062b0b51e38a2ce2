"""The channels that condition a network, written once into its input, in Triton.

B windows, S slices, C channels, N label windows of L slices, K classes, P pixels of a slice.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from common.kernels.launch import OPTIONS, ceil_div, on_device, plane_strides, power_of_two

PIXELS = 256


@triton.jit
def window_kernel(
    x, condition, known, out, known_b, known_s,
    x_b, x_s, x_c, x_p, condition_b, condition_s, condition_c, condition_p,
    out_b, out_s, out_c, out_p, slices, channels, pixels,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One slice of one window: the condition where it is known, else x; then the indicator."""
    parts = (pixels + BLOCK_P - 1) // BLOCK_P
    part, place = tl.program_id(0) % parts, tl.program_id(0).to(tl.int64) // parts
    b, s = place // slices, place % slices
    c = tl.arange(0, BLOCK_C).to(tl.int64)[:, None]
    p = part.to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    given = tl.load(known + b * known_b + s * known_s).to(tl.int32)
    inside = (c < channels) & (p < pixels)
    given = tl.zeros([BLOCK_C, BLOCK_P], dtype=tl.int32) + given
    at = x + b * x_b + s * x_s + c * x_c + p * x_p
    noisy = tl.load(at, mask=inside & (given == 0), other=0.0).to(tl.float32)
    at = condition + b * condition_b + s * condition_s + c * condition_c + p * condition_p
    clean = tl.load(at, mask=inside & (given != 0), other=0.0).to(tl.float32)
    value = tl.where(c == channels, given.to(tl.float32), noisy + clean)
    at = out + b * out_b + s * out_s + c * out_c + p * out_p
    tl.store(at, value.to(out.dtype.element_ty), mask=(c <= channels) & (p < pixels))


@triton.jit
def one_hot_kernel(
    label, out, label_n, label_l, label_p, out_n, out_c, out_p, slices, classes, pixels,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One slice of one label window; a label outside 0..K-1 becomes NaN in all its channels."""
    parts = (pixels + BLOCK_P - 1) // BLOCK_P
    part, place = tl.program_id(0) % parts, tl.program_id(0).to(tl.int64) // parts
    n, i = place // slices, place % slices
    k = tl.arange(0, BLOCK_K).to(tl.int64)[:, None]
    p = part.to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    at = label + n * label_n + i * label_l + p * label_p
    found = tl.load(at, mask=p < pixels, other=0).to(tl.int64)
    value = tl.where(found == k, 1.0, 0.0)
    value = tl.where((found >= 0) & (found < classes), value, float("nan"))
    at = out + n * out_n + (i * classes + k) * out_c + p * out_p
    tl.store(at, value.to(out.dtype.element_ty), mask=(k < classes) & (p < pixels))


def assemble_window(
    x_BSCHW: Tensor, condition_BSCHW: Tensor, known_BS: Tensor, out_BSDHW: Tensor
) -> Tensor:
    """Launch the kernel; `common.kernels.assemble_window` into a buffer whose planes are even."""
    b, s, c = x_BSCHW.shape[:3]
    parts = [_planes(part) for part in (x_BSCHW, condition_BSCHW.expand(x_BSCHW.shape))]
    (x, x_strides), (condition, condition_strides) = parts
    out_strides = _four(out_BSDHW)
    assert out_strides is not None
    pixels = x[0, 0, 0].numel()
    known = known_BS.expand(b, s).view(torch.uint8)
    block_c = power_of_two(c + 1)
    block_p = min(power_of_two(pixels), max(1, 4096 // block_c), PIXELS)
    with on_device(x):
        window_kernel[(ceil_div(pixels, block_p) * b * s,)](
            x, condition, known, out_BSDHW, *known.stride(), *x_strides, *condition_strides,
            *out_strides, s, c, pixels, block_c, block_p, **OPTIONS,
        )  # fmt: skip
    return out_BSDHW


def one_hot(label_NL: Tensor, num_classes: int, out: Tensor) -> Tensor:
    """Launch the kernel; `common.kernels.one_hot` into a buffer whose planes are even."""
    n, slices = label_NL.shape[:2]
    label_strides, out_strides = plane_strides(label_NL), plane_strides(out)
    if label_strides is None:
        label_NL = label_NL.contiguous()
        label_strides = plane_strides(label_NL)
    assert label_strides is not None
    assert out_strides is not None
    pixels = label_NL[0, 0].numel()
    block_k = power_of_two(num_classes)
    block_p = min(power_of_two(pixels), max(1, 4096 // block_k), PIXELS)
    with on_device(out):
        one_hot_kernel[(ceil_div(pixels, block_p) * n * slices,)](
            label_NL, out, *label_strides, *out_strides, slices, num_classes, pixels,
            block_k, block_p, **OPTIONS,
        )  # fmt: skip
    return out


def _four(x_BSCHW: Tensor) -> tuple[int, ...] | None:
    """Strides over windows, slices, channels and pixels; None where the pixels have none."""
    strides = plane_strides(x_BSCHW[0])
    return None if strides is None else (x_BSCHW.stride(0), *strides)


def _planes(x_BSCHW: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """A tensor whose planes are even; a copy where those of x are not."""
    strides = _four(x_BSCHW)
    if strides is None:
        x_BSCHW = x_BSCHW.contiguous()
        strides = _four(x_BSCHW)
    assert strides is not None
    return x_BSCHW, strides
