"""Fused kernels with one specification, `common.kernels.reference`, and one face: this module.

Each function runs in Triton where `common.kernels.dispatch` allows it, else as the reference, with
the same results up to rounding. Triton is imported only when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.errors import MedpairError
from common.kernels import reference
from common.kernels.dispatch import use_triton
from common.kernels.launch import collapse
from common.kernels.reference import Modulation
from common.kernels.table import Known, TailRow, TailTable

__all__ = [
    "Known",
    "Modulation",
    "TailRow",
    "TailTable",
    "assemble_window",
    "group_norm_silu",
    "modulated_norm",
    "one_hot",
    "sampler_tail",
    "use_triton",
]

MOST_CHANNELS = 1024  # of a group, so that one program joins its statistics
MOST_PASSES = 4
MOST_ROWS = 2048  # channels or classes that one program writes
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = True,
) -> Tensor:
    """Group normalisation, then SiLU.

    Args:
        x: (N, C, *spatial), float32, bfloat16 or float16, of any strides.
        groups: G, a divisor of C.
        weight: (C,) or None.
        bias: (C,) or None.
        eps: added to the variance.
        silu: False leaves the SiLU away.

    Returns:
        (N, C, *spatial); in the type of autocast where that is on, by Triton. Statistics are
        float32.

    Source: Wu and He, Group Normalization (1803.08494), eq. 1-2; SiLU: 1606.08415.
    """
    if _norm_fits(x, groups, (weight, bias)):
        from common.kernels import triton_norm

        dtype = _result_type(x)
        return triton_norm.modulated_norm(x, groups, (), weight, bias, eps, silu, dtype)
    return reference.group_norm_silu(x, groups, weight, bias, eps, silu)


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
    """Group normalisation, then y * scale + shift for each modulation, then SiLU if wanted.

    Args: as for `group_norm_silu`, and
        modulations: one or two (scale, shift), maps (N, C, *spatial) as SPADE makes them or
            (N, C, 1, ...) as an embedding does; views of any strides.
        silu: end with SiLU.
        in_scale_type: the result has the first scale's type, and plain torch rounds to it before
            the modulation; otherwise types are promoted.

    Returns:
        (N, C, *spatial); types as for `group_norm_silu`.

    Source: adaptive group normalisation: Dhariwal and Nichol (2105.05233), section 5.1; SPADE:
    Park et al. (1903.07291), eq. 1.
    """
    parts = [part for pair in modulations for part in pair]
    if len(modulations) <= 2 and _norm_fits(x, groups, (weight, bias), *parts):
        from common.kernels import triton_norm

        dtype = _result_type(*(parts if in_scale_type else (x, *parts)))
        return triton_norm.modulated_norm(x, groups, modulations, weight, bias, eps, silu, dtype)
    return reference.modulated_norm(x, groups, modulations, weight, bias, eps, silu, in_scale_type)


def _norm_fits(
    x: Tensor, groups: int, affine: tuple[Tensor | None, Tensor | None], *others: Tensor
) -> bool:
    def limit() -> str | None:
        if x.ndim < 3 or x.shape[1] % groups or x.numel() == groups:
            return f"{groups} groups of a tensor of shape {tuple(x.shape)} have no statistics"
        if any(part is not None and part.shape != x.shape[1:2] for part in affine):
            return f"weight and bias do not have {x.shape[1]} values, one per channel"
        width = x.shape[1] // groups
        if width > MOST_CHANNELS:
            return f"a group has {width} channels, want {MOST_CHANNELS} at most"
        return None

    return use_triton(x, *affine, *others, limit=limit)


def _result_type(*parts: Tensor) -> torch.dtype:
    """The type of autocast where it is on, else the one that torch promotes to."""
    kind = parts[0].device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    dtype = parts[0].dtype
    for part in parts[1:]:
        dtype = torch.promote_types(dtype, part.dtype)
    return dtype


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
    """All that a sampler does between two network calls, in one launch.

    Args:
        x: (B, ...) state, float32.
        table: what the moves are, see `common.kernels.table`.
        row: number of the move; as a one-element integer tensor on x's device it is read there, so
            that a CUDA graph can be replayed with another.
        outputs: (P * B, ...) network outputs of all passes of guidance, one pass after the other;
            None for a move without the network.
        weights: of the P passes.
        known: what to agree with after the move.
        keys_B4: where the noise comes from, see `common.diffusion.rng.NoiseStream.keys_B4`; None
            where no draw is needed.
        last: (B, ...) float32 buffer: the x_0 of the network call before, replaced by this one's.

    Returns:
        (B, ...) the next state, float32.

    Raises:
        MedpairError: if the outputs have another shape.

    Source: classifier-free guidance: 2207.12598, eq. 6; updates: see `common.diffusion.samplers`;
    known slices: RePaint (2201.09865), algorithm 1.
    """
    assert x.dtype == torch.float32, "the state is kept in float32"
    assert keys_B4 is not None or not table.noisy, "a table whose moves draw noise wants keys"
    assert keys_B4 is None or (keys_B4.shape == (len(x), 4) and keys_B4.dtype == torch.int64)
    assert last is None or (last.shape == x.shape and last.dtype == torch.float32)
    assert isinstance(row, Tensor) or 0 <= row < len(table.numbers)
    whole = (len(weights) * len(x), *x.shape[1:])
    if outputs is not None and outputs.shape != whole:
        raise MedpairError(
            f"network output: shape {tuple(outputs.shape)}; want {whole}, {len(weights)} times the "
            "state's; use a network that predicts one value per value of its input"
        )
    others = (outputs, last, None if known is None else known.x_0)

    def limit() -> str | None:
        many = len(weights) > MOST_PASSES
        return f"there are {len(weights)} passes, want {MOST_PASSES} at most" if many else None

    if use_triton(x, *others, limit=limit):
        from common.kernels import triton_tail

        assert last is None or last.is_contiguous(), "last is written in place"
        keys = None if keys_B4 is None else keys_B4.contiguous()
        return triton_tail.sampler_tail(
            x.contiguous(), table, row, outputs, weights, known, keys, last
        )
    return reference.sampler_tail(
        x, table, row, outputs, weights, known=known, keys_B4=keys_B4, last=last
    )


def assemble_window(
    x_BSCHW: Tensor, condition_BSCHW: Tensor, known_BS: Tensor, out: Tensor | None = None
) -> Tensor:
    """Put clean condition slices in place of noisy ones and append the indicator channel.

    Args:
        x_BSCHW: noisy code.
        condition_BSCHW: clean code, used where ``known_BS``.
        known_BS: condition slices, bool.
        out: (B, S, C+1, H, W) buffer to write; also a view of a channels_last (B, S*(C+1), H, W).

    Returns:
        (B, S, C+1, H, W): out, or a new tensor (by Triton such a view, as the network takes it).

    Source: MedGen3D §3.1, eq. 3.
    """
    b, s, c, h, w = x_BSCHW.shape
    assert out is None or out.shape == (b, s, c + 1, h, w)

    def limit() -> str | None:
        return _rows_limit("channels", c + 1) or _plane_limit(out, 3)

    if use_triton(x_BSCHW, condition_BSCHW, out, limit=limit):
        from common.kernels import triton_assemble

        if out is None:
            out = _channels_last((b, s * (c + 1), h, w), x_BSCHW).unflatten(1, (s, c + 1))
        return triton_assemble.assemble_window(x_BSCHW, condition_BSCHW, known_BS, out)
    return reference.assemble_window(x_BSCHW, condition_BSCHW, known_BS, out)


def one_hot(label_NL: Tensor, num_classes: int, out: Tensor | None = None) -> Tensor:
    """One channel per mask slice and class.

    Args:
        label_NL: (N, L, *plane) labels 0..K-1, any integer type.
        num_classes: K.
        out: (N, L * K, *plane) buffer to write, of any floating type.

    Returns:
        (N, L * K, *plane): out, or a new float32 tensor (by Triton in channels_last, for planes of
        two axes). The reference refuses labels outside 0..K-1; Triton, which would have to wait
        to do so, makes them NaN.
    """
    shape = (len(label_NL), label_NL.shape[1] * num_classes, *label_NL.shape[2:])
    assert out is None or out.shape == shape
    like = label_NL.new_empty(1, dtype=torch.float32) if out is None else out

    def limit() -> str | None:
        if label_NL.dtype not in INTEGERS or label_NL.numel() == 0:
            return f"labels are {label_NL.numel()} of {label_NL.dtype}, want integers"
        return _rows_limit("classes", num_classes) or _plane_limit(out, 2)

    if use_triton(like, limit=limit):
        from common.kernels import triton_assemble

        out = _channels_last(shape, like) if out is None else out
        return triton_assemble.one_hot(label_NL, num_classes, out)
    return reference.one_hot(label_NL, num_classes, out)


def _rows_limit(what: str, count: int) -> str | None:
    return None if count <= MOST_ROWS else f"there are {count} {what}, want {MOST_ROWS} at most"


def _plane_limit(out: Tensor | None, leading: int) -> str | None:
    """A buffer is written in place: the axes after the leading ones need one common stride."""
    if out is None or len(collapse(out.shape[leading:], out.stride()[leading:])[0]) == 1:
        return None
    return f"the planes of the buffer have strides {out.stride()[leading:]}, want even ones"


def _channels_last(shape: Sequence[int], like: Tensor) -> Tensor:
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)
