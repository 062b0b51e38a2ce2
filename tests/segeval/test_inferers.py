from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.errors import MedpairError
from segeval.inferers import PaddedInferer


def test_the_network_sees_padded_volumes_and_the_caller_does_not() -> None:
    seen: list[tuple[int, ...]] = []

    def double(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        assert not x[..., 5:, :, :].any()
        return 2 * x

    image = torch.rand(1, 1, 5, 8, 9)
    assert torch.equal(PaddedInferer(4, "fp32")(image, double), 2 * image)
    assert seen == [(1, 1, 8, 8, 12)]


@pytest.mark.parametrize("size", [(8, 8, 8), (7, 9, 6), (1, 2, 3)])
def test_any_size_passes_the_network(network: nn.Module, size: tuple[int, int, int]) -> None:
    logits = PaddedInferer(4, "fp32")(torch.rand(2, 1, *size), network)
    assert logits.shape == (2, 6, *size)
    assert logits.dtype == torch.float32


def test_each_side_may_have_its_own_multiple() -> None:
    inferer = PaddedInferer([1, 4, 16], "fp32")
    assert inferer.padded((5, 5, 5)) == [5, 8, 16]
    image = torch.rand(1, 1, 5, 5, 5)
    assert torch.equal(inferer(image, lambda x: x * x.shape[-1]), image * 16)


def test_windows_give_what_the_whole_gives_where_the_network_sees_a_voxel_alone() -> None:
    image = torch.rand(1, 1, 21, 9, 5)
    windows = PaddedInferer(4, "fp32", [8, 8, 8])
    seen: list[tuple[int, ...]] = []

    def double(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape[2:]))
        return 2 * x

    assert torch.allclose(windows(image, double), 2 * image, atol=1e-5)
    assert set(seen) == {(8, 8, 8)}
    assert len(seen) > 4
    assert torch.equal(windows.whole(image, double), 2 * image)
    assert seen[-1] == (24, 12, 8)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(MedpairError, match=r"roi_size is \[8, 8\]; want D, H, W, multiples of"):
        PaddedInferer(4, "fp32", [8, 8])
    with pytest.raises(MedpairError, match="multiple is 0; want"):
        PaddedInferer(0)
    with pytest.raises(MedpairError, match="precision is 'half'"):
        PaddedInferer(4, "half")
