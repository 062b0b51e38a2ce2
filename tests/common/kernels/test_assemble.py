"""Conditioning channels: Triton against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.errors import MedpairError
from common.kernels import assemble_window, one_hot, reference
from mcdpm.diffusion import network_input
from sdm.slices import one_hot_windows


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


KNOWN = torch.tensor([[True, False, False, True], [False, False, True, True]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("channels", "plane"), [(1, (5, 7)), (3, (1, 1)), (8, (33, 35))])
def test_window(
    device: torch.device, channels: int, plane: tuple[int, int], dtype: torch.dtype
) -> None:
    x, condition = (draw(2, 4, channels, *plane, seed=s).to(dtype) for s in (0, 1))
    x[0, 0] = float("nan")  # hidden by the condition
    found = network_input(x.to(device), condition.to(device), KNOWN.to(device))
    assert torch.equal(found.cpu(), reference.assemble_window(x, condition, KNOWN))
    folded = found.flatten(1, 2)
    assert folded.data_ptr() == found.data_ptr()
    assert folded.is_contiguous(memory_format=torch.channels_last)


def test_window_of_any_strides(device: torch.device) -> None:
    x = draw(2, 3, 4, 5, 7).transpose(1, 2)
    condition = torch.nn.functional.pad(draw(2, 4, 3, 5, 7, seed=1), (0, 3))[..., :-3]
    wanted = reference.assemble_window(x, condition, KNOWN)
    out = torch.zeros(2, 4, 4, 5, 7, dtype=torch.float16, device=device)
    moved = x.to(device), condition.to(device), KNOWN.to(device)
    assert assemble_window(*moved, out) is out
    assert torch.equal(out.cpu(), wanted.half())


def test_a_buffer_without_an_even_stride_is_refused_or_left_to_the_reference(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, condition = draw(2, 4, 3, 5, 7), draw(2, 4, 3, 5, 7, seed=1)
    uneven = torch.zeros(2, 4, 4, 5, 9, device=device)[..., :7]
    moved = x.to(device), condition.to(device), KNOWN.to(device)
    with pytest.raises(MedpairError, match=r"strides \(9, 1\), want even ones"):
        assemble_window(*moved, uneven)
    monkeypatch.setenv("MEDPAIR_KERNELS", "auto")
    assert assemble_window(*moved, uneven) is uneven
    assert torch.equal(uneven.cpu(), reference.assemble_window(x, condition, KNOWN))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
@pytest.mark.parametrize("classes", [1, 5, 21])
def test_one_hot(device: torch.device, classes: int, dtype: torch.dtype) -> None:
    label = (torch.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7) * 7 % classes).to(dtype)
    found = one_hot_windows(label.to(device), classes)
    assert found.dtype == torch.float32
    assert torch.equal(found.cpu(), reference.one_hot(label, classes))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_one_hot_of_any_strides(device: torch.device) -> None:
    label = (torch.arange(2 * 3 * 5 * 8).reshape(2, 3, 5, 8) % 4)[..., :7]
    out = torch.zeros(2, 12, 5, 7, dtype=torch.float16, device=device)
    assert one_hot(label.to(device), 4, out) is out
    assert torch.equal(out.cpu(), reference.one_hot(label, 4).half())
    volume = (torch.arange(60) % 4).reshape(1, 1, 3, 4, 5).to(device)
    assert torch.equal(one_hot(volume, 4).cpu(), reference.one_hot(volume.cpu(), 4))


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_label_that_does_not_exist_is_seen(device: torch.device, wrong: int) -> None:
    label = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    label[0, 0, 1, 1] = wrong
    found = one_hot(label.to(device), 4).cpu()
    assert found[0, :, 1, 1].isnan().all()
    assert found.isnan().sum() == 4
    with pytest.raises(RuntimeError, match=r"smaller than num_classes|non-negative"):
        reference.one_hot(label, 4)
