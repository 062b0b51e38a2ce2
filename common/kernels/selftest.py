"""A start-up check: every kernel against the reference, once per device and versions.

What a compiler, a driver or a library gets wrong on one kind of device must not become a wrong
image: where any difference is too large, the reference runs instead, and one line says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from common.kernels import reference
from common.kernels.table import Known, TailRow, TailTable


class Case(NamedTuple):
    """One comparison.

    Args:
        name: of the kernel and what it is given.
        tolerance: largest difference allowed, as a share of the largest value wanted (at least 1).
        run: returns what was found and what is wanted.
    """

    name: str
    tolerance: float
    run: Callable[[], tuple[Tensor, Tensor]]


_verdicts: dict[tuple[str, ...], str | None] = {}


@torch.no_grad()
def verdict(device: torch.device, key: tuple[str, ...]) -> str | None:
    """Return why the kernels cannot be used on a device, or None.

    Args:
        device: where to try them.
        key: names of the device and versions of what runs there; tried once per key.
    """
    if key not in _verdicts:
        with torch.autocast(device.type, enabled=False):
            _verdicts[key] = next((found for found in map(_fault, cases(device)) if found), None)
    return _verdicts[key]


def _fault(case: Case) -> str | None:
    try:
        found, wanted = (t.double() for t in case.run())
    except torch.OutOfMemoryError:
        raise  # says nothing of the kernel: the batch is halved, then it is tried again
    except Exception as error:  # noqa: BLE001 - compilers and drivers fail in ways of their own
        first = (str(error).splitlines() or [""])[0]
        return f"the self-test of {case.name} failed with {type(error).__name__}: {first}"
    difference = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))
    if difference <= case.tolerance:  # also False for NaN
        return None
    return (
        f"the self-test of {case.name} differs by {difference:.3g} from the reference, "
        f"want {case.tolerance:g} at most; update torch, triton or the driver"
    )


def cases(device: torch.device) -> Iterator[Case]:
    """Yield the comparisons for a device."""
    from common.kernels import triton_assemble

    bf16 = device.type == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0)
    half = torch.bfloat16 if bf16 else torch.float16
    yield Case("group_norm_silu, float32", 1e-4, lambda: _norm(device, torch.float32, (5, 7), 0))
    yield Case("group_norm_silu, large", 1e-4, lambda: _norm(device, torch.float32, (47, 49), 0))
    yield Case(f"modulated_norm, {half}", 0.02, lambda: _norm(device, half, (47, 49), 2))
    yield Case("sampler_tail", 1e-5, lambda: _tail(device))

    def window() -> tuple[Tensor, Tensor]:
        x, condition = _wave((2, 3, 2, 5, 7), device), _wave((2, 3, 2, 5, 7), device, 2.0)
        known = torch.tensor([[True, False, True], [False, False, True]], device=device)
        out = torch.empty(2, 3, 3, 5, 7, device=device)
        found = triton_assemble.assemble_window(x, condition, known, out)
        return found, reference.assemble_window(x, condition, known)

    def classes() -> tuple[Tensor, Tensor]:
        label = (torch.arange(70, device=device) % 5).reshape(2, 1, 5, 7)
        out = torch.empty(2, 5, 5, 7, device=device)
        return triton_assemble.one_hot(label, 5, out), reference.one_hot(label, 5)

    yield Case("assemble_window", 0.0, window)
    yield Case("one_hot", 0.0, classes)


def _wave(
    shape: tuple[int, ...],
    device: torch.device,
    phase: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Numbers in -1..1 that leave the random generators alone."""
    count = torch.Size(shape).numel()
    wave = torch.sin(torch.arange(count, dtype=torch.float64) * 1.37 + phase)
    return wave.reshape(shape).to(device, dtype)


def _norm(
    device: torch.device, dtype: torch.dtype, plane: tuple[int, int], modulations: int
) -> tuple[Tensor, Tensor]:
    from common.kernels import triton_norm

    layout = torch.channels_last if modulations else torch.contiguous_format
    x = (_wave((2, 6, *plane), device) * 3 + 5).to(dtype).contiguous(memory_format=layout)
    weight, bias = _wave((6,), device, 1.0), _wave((6,), device, 2.0)
    maps = _wave((2, 12, *plane), device, 3.0, dtype).contiguous(memory_format=layout)
    scale, shift = maps.chunk(2, dim=1)
    rows = _wave((2, 12, 1, 1), device, 4.0, dtype)
    pairs = [(scale, shift), (rows[:, :6], rows[:, 6:])][:modulations]
    found = triton_norm.modulated_norm(x, 2, pairs, weight, bias, 1e-5, True, dtype)
    exact = [(a.float(), b.float()) for a, b in pairs]
    return found, reference.modulated_norm(x.float(), 2, exact, weight, bias, silu=True)


def _tail(device: torch.device) -> tuple[Tensor, Tensor]:
    from common.kernels import triton_tail

    row = TailRow(
        x0_x=0.6, x0_out=-0.8, eps_x=0.8, eps_out=0.6, by_x=0.1, by_x0=0.7, by_eps=0.4,
        by_last=0.2, std=0.3, known_alpha=0.9, known_sigma=0.5, clip_low=-0.5, clip_high=0.5,
        step_word=3 << 8, known_word=4 << 8 | 1,
    )  # fmt: skip
    table = TailTable.pack([row], clipped=True, device=device)
    x, outputs = _wave((2, 3, 5, 7), device), _wave((4, 3, 5, 7), device, 1.0)
    mask = torch.tensor([True, False, True], device=device)[:, None, None].expand(2, 3, 1, 1)
    known = Known(_wave((2, 3, 5, 7), device, 2.0), mask)
    keys = torch.tensor([[7, 1 << 24, 5, 9], [2**32 - 1, 3, 5, 9]], device=device)
    lasts = [_wave((2, 3, 5, 7), device, 3.0) for _ in range(2)]
    found = triton_tail.sampler_tail(x, table, 0, outputs, (2.0, -1.0), known, keys, lasts[0])
    wanted = reference.sampler_tail(
        x, table, 0, outputs, (2.0, -1.0), known=known, keys_B4=keys, last=lasts[1]
    )
    return torch.stack([found, lasts[0]]), torch.stack([wanted, lasts[1]])
