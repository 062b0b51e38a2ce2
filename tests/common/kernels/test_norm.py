"""Group normalisation and modulation: Triton against the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.kernels import group_norm_silu, modulated_norm, reference

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def strided(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 1)[:, ::2]


def uneven(x: Tensor) -> Tensor:
    """A tensor whose plane has no single stride."""
    return torch.nn.functional.pad(x, (0, 1))[..., :-1]


def channels_last(x: Tensor) -> Tensor:
    kinds = {3: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=kinds[x.ndim])


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": channels_last,
    "strided": strided,
    "half": lambda x: channels_last(torch.cat([x, x], 1))[:, : x.shape[1]],
    "uneven": uneven,
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
}


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    """Equal up to rounding of the result; statistics add no error of their own."""
    assert found.shape == wanted.shape
    assert found.dtype == dtype
    size = wanted.abs().max().clamp(min=1)
    assert float((found.cpu().float() - wanted).abs().max() / size) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_group_norm_silu(device: torch.device, layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout]((draw(2, 6, 5, 7) * 2 + 1).to(dtype)).to(device)
    weight, bias = draw(6, seed=1), draw(6, seed=2)
    found = group_norm_silu(x, 2, weight.to(device), bias.to(device))
    close(found, reference.group_norm_silu(x.cpu().float(), 2, weight, bias), dtype)
    assert found.is_contiguous(memory_format=torch.channels_last) == (
        layout in ("channels_last", "half")
    )


@FEW
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 5),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
)
def test_any_shape(
    device: torch.device,
    n: int,
    groups: int,
    width: int,
    plane: list[int],
    silu: bool,
    last: bool,
) -> None:
    x = draw(n, groups * width, *plane) + 3
    assume(x.numel() > groups)
    if width * torch.Size(plane).numel() == 1:
        x = x * 0 + 3  # a group of one element has no spread to amplify rounding by
    x = channels_last(x) if last else x
    found = group_norm_silu(x.to(device), groups, silu=silu)
    wanted = reference.group_norm_silu(x.double(), groups, silu=silu)
    torch.testing.assert_close(found.cpu(), wanted.float(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "half"])
@pytest.mark.parametrize("shape", [(1, 6, 67, 71), (2, 3, 9, 33, 31)])
def test_groups_too_large_for_one_program(
    device: torch.device, layout: str, shape: tuple[int, ...]
) -> None:
    x = LAYOUTS[layout](draw(*shape))
    groups = shape[1] // 3
    found = group_norm_silu(x.to(device), groups)
    close(found, reference.group_norm_silu(x, groups), torch.float32)


@pytest.mark.parametrize("plane", [(8, 8), (96, 96)])
def test_a_large_mean_costs_no_digits(device: torch.device, plane: tuple[int, int]) -> None:
    x = draw(1, 4, *plane) + 3000  # sums of squares would keep no digit of a variance of 1
    found = group_norm_silu(x.to(device), 1, silu=False)
    exact = torch.nn.functional.group_norm(x.double(), 1).float()
    assert float((found.cpu() - exact).abs().max()) < 1e-3
    assert abs(float(found.std(unbiased=False)) - 1) < 1e-4


def maps(channels: int, plane: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The two halves of one channels_last tensor, as SPADE makes them."""
    both = draw(2, 2 * channels, *plane, seed=5).to(dtype)
    scale, shift = both.contiguous(memory_format=torch.channels_last).chunk(2, dim=1)
    return scale, shift


def rows(channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    scale, shift = draw(2, 2 * channels, seed=6).to(dtype)[:, :, None, None].chunk(2, dim=1)
    return 1 + scale, shift


@pytest.mark.parametrize("plane", [(5, 7), (61, 67)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["maps", "rows", "both"])
def test_modulation(
    device: torch.device, kind: str, dtype: torch.dtype, plane: tuple[int, int]
) -> None:
    x = channels_last(draw(2, 6, *plane).to(dtype))
    pairs = {"maps": [maps(6, plane, dtype)], "rows": [rows(6, dtype)]}
    pairs["both"] = pairs["maps"] + pairs["rows"]
    weight = None if kind == "maps" else draw(6, seed=1)
    moved = [(a.to(device), b.to(device)) for a, b in pairs[kind]]
    found = modulated_norm(
        x.to(device), 3, moved, None if weight is None else weight.to(device), None, silu=True,
        in_scale_type=True,
    )  # fmt: skip
    exact = [(a.float(), b.float()) for a, b in pairs[kind]]
    close(found, reference.modulated_norm(x.float(), 3, exact, weight, None, silu=True), dtype)


def test_maps_of_several_strides_are_copied(device: torch.device) -> None:
    x, (scale, shift) = draw(2, 4, 5, 7), maps(4, (5, 7), torch.float32)
    found = modulated_norm(x.to(device), 2, [(uneven(scale).to(device), uneven(shift).to(device))])
    close(found, reference.modulated_norm(x, 2, [(scale, shift)]), torch.float32)


def test_autocast_chooses_the_type(device: torch.device) -> None:
    x = draw(2, 4, 5, 7)
    with torch.autocast(device.type, torch.bfloat16):
        found = group_norm_silu(x.to(device), 2)
    close(found, reference.group_norm_silu(x, 2), torch.bfloat16)


def test_a_number_that_is_none_stays_visible(device: torch.device) -> None:
    x = draw(1, 4, 5, 7)
    x[0, 0, 0, 0] = float("nan")
    found = group_norm_silu(x.to(device), 2).cpu()
    assert found[0, :2].isnan().all()
    assert not found[0, 2:].isnan().any()


def test_training_takes_the_reference(device: torch.device) -> None:
    x = draw(1, 4, 5, 7).to(device).requires_grad_()
    found = group_norm_silu(x, 2)
    assert torch.equal(found, reference.group_norm_silu(x, 2))
    found.sum().backward()
    assert x.grad is not None
