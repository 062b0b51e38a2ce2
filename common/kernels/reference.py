"""The kernels in plain torch: the specification, and what runs wherever Triton does not.

N samples or slices, B windows, S slices per window, C channels, G groups, K classes, L mask slices,
P passes of guidance, R rows of a table, E elements of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.table import NUMBERS, Known, TailRow, TailTable

Modulation = tuple[Tensor, Tensor]
"""Scale and shift, each of a shape that broadcasts to the features."""

_MASK = 0xFFFFFFFF
_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(words: _Words, key: tuple[int | Tensor, int | Tensor]) -> _Words:
    """Philox-4x32-10: four random 32-bit words for each counter.

    Args:
        words: the four counter words, int64 in 0..2^32-1; they broadcast with each other.
        key: the two key words, ints or int64 tensors that broadcast too.

    Returns:
        Four int64 tensors, each uniform in 0..2^32-1.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011), section 3.3.
    """
    a, b, c, d = words
    k_0, k_1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64, which leaves the bits of the unsigned product
        left, right = a * _MULTIPLY[0], c * _MULTIPLY[1]
        a, c = ((right >> 32) & _MASK) ^ b ^ k_0, ((left >> 32) & _MASK) ^ d ^ k_1
        b, d = right & _MASK, left & _MASK
        k_0, k_1 = (k_0 + _WEYL[0]) & _MASK, (k_1 + _WEYL[1]) & _MASK
    return a, b, c, d


def box_muller(word_r: Tensor, word_phi: Tensor) -> tuple[Tensor, Tensor]:
    """Two normals from two words; float64, so that devices agree after rounding to float32."""
    radius = ((word_r.to(torch.float64) + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = (word_phi.to(torch.float64) + 0.5) * (2 * math.pi * 2.0**-32)
    return radius * angle.cos(), radius * angle.sin()


def normals(keys_B4: Tensor, draw: int | Tensor, count: int) -> Tensor:
    """Standard normal noise of one draw, see `common.diffusion.rng`.

    Args:
        keys_B4: int64; volume word, stage and window word, low and high word of the seed.
        draw: step << 8 | purpose.
        count: elements E of a sample.

    Returns:
        (B, E) float64.
    """
    volume, window, low, high = keys_B4[:, :, None].unbind(1)
    block = torch.arange(-(-count // 4), dtype=torch.int64, device=keys_B4.device)[None, :]
    a, b, c, d = philox((volume, window, torch.zeros_like(block) + draw, block), (low, high))
    quads = torch.stack([*box_muller(a, b), *box_muller(c, d)], -1).flatten(1)
    return quads[:, :count]


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = True,
) -> Tensor:
    """Group normalisation, then SiLU. Args as `common.kernels.group_norm_silu`."""
    y = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(y) if silu else y


def modulated_norm(
    x: Tensor,
    groups: int,
    modulations: Sequence[Modulation],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = False,
    in_scale_type: bool = False,
) -> Tensor:
    """Group normalisation, scaled and shifted. Args as `common.kernels.modulated_norm`."""
    y = F.group_norm(x, groups, weight, bias, eps)
    if in_scale_type:
        y = y.to(modulations[0][0].dtype)
    for scale, shift in modulations:
        y = torch.addcmul(shift, y, scale) if in_scale_type else y * scale + shift
    return F.silu(y) if silu else y


def sampler_tail(
    x: Tensor,
    table: TailTable,
    row: int | Tensor,
    outputs: Tensor | None = None,
    weights: Sequence[float] = (1.0,),
    *,
    known: Known | None = None,
    keys_B4: Tensor | None = None,
    last: Tensor | None = None,
) -> Tensor:
    """One move of a sampler. Args as `common.kernels.sampler_tail`."""
    numbers, words = table.numbers[row].reshape(-1), table.words[row].reshape(-1)
    move = TailRow(*numbers[:NUMBERS].unbind(), *words.unbind())  # type: ignore[arg-type]

    def noise(draw: int | Tensor) -> Tensor:
        assert keys_B4 is not None
        return normals(keys_B4, draw, x[0].numel()).reshape(x.shape).to(x.dtype)

    new = move.by_x * x
    if outputs is not None:
        x_0, eps = _estimates(x, move, outputs, weights, table.clipped)
        new = new + move.by_x0 * x_0 + move.by_eps * eps
        if last is not None:
            if move.by_last != 0:  # before the first network call there is nothing in it
                new = new + move.by_last * last
            last.copy_(x_0)
    if move.std != 0:
        new = new + move.std * noise(move.step_word)
    if known is None:
        return new
    wanted = move.known_alpha * known.x_0
    if move.known_sigma != 0:
        wanted = wanted + move.known_sigma * noise(move.known_word)
    return torch.where(known.mask, wanted, new)


def _estimates(
    x: Tensor, move: TailRow, outputs: Tensor, weights: Sequence[float], clipped: bool
) -> tuple[Tensor, Tensor]:
    """The guided estimates of x_0 and eps."""
    parts = zip(weights, outputs.float().chunk(len(weights)), strict=True)
    out = torch.stack([weight * part for weight, part in parts]).sum(0)
    x_0 = move.x0_x * x + move.x0_out * out
    if clipped:
        x_0 = x_0.clamp(move.clip_low, move.clip_high)
    return x_0, move.eps_x * x + move.eps_out * (x_0 if clipped else out)


def assemble_window(
    x_BSCHW: Tensor, condition_BSCHW: Tensor, known_BS: Tensor, out: Tensor | None = None
) -> Tensor:
    """Clean condition slices and the indicator. Args as `common.kernels.assemble_window`."""
    known = known_BS[:, :, None, None, None]
    indicator = known.to(x_BSCHW.dtype).expand(-1, -1, 1, *x_BSCHW.shape[-2:])
    joined = torch.cat([torch.where(known, condition_BSCHW, x_BSCHW), indicator], dim=2)
    return joined if out is None else out.copy_(joined)


def one_hot(label_NL: Tensor, num_classes: int, out: Tensor | None = None) -> Tensor:
    """One channel per mask slice and class. Args as `common.kernels.one_hot`."""
    made = F.one_hot(label_NL.long(), num_classes).movedim(-1, 2).flatten(1, 2).float()
    return made if out is None else out.copy_(made)
