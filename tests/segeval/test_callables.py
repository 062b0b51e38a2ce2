from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.errors import MedpairError
from segeval.callables import Features, Segmenter
from segeval.inferers import PaddedInferer

LEVELS = [f"model.{'1.submodule.' * n}0" for n in range(3)]


class Steps(nn.Module):
    """Give class n where an image in [0, 1] lies around n / 5."""

    def __init__(self) -> None:
        super().__init__()
        self.device_marker = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        return -((image - torch.arange(6).reshape(1, 6, 1, 1, 1) / 5) ** 2)


@pytest.fixture
def inferer() -> PaddedInferer:
    return PaddedInferer(4, "fp32")


def test_masks_come_from_images_of_pipelines(inferer: PaddedInferer) -> None:
    label = torch.randint(6, (3, 5, 4, 7), generator=torch.Generator().manual_seed(0))
    masks = Segmenter(Steps(), inferer)(2 * label / 5 - 1)
    assert masks.dtype == torch.uint8
    assert torch.equal(masks, label.to(torch.uint8))


def test_a_volume_does_not_change_with_its_neighbours(
    network: nn.Module, inferer: PaddedInferer
) -> None:
    images = torch.rand(3, 6, 5, 8) * 2 - 1
    for call in (Segmenter(network, inferer), Features(network, inferer, LEVELS[1])):
        assert torch.equal(call(images)[1:2], call(images[1:2]))


@pytest.mark.parametrize(
    ("level", "shape"), [(0, (2, 9, 8, 6)), (1, (4, 5, 4, 3)), (2, (6, 3, 2, 2))]
)
def test_features_are_maps_of_an_encoder_level_without_the_padding(
    network: nn.Module, inferer: PaddedInferer, level: int, shape: tuple[int, ...]
) -> None:
    images = torch.rand(2, 9, 8, 6) * 2 - 1
    maps = Features(network, inferer, LEVELS[level])(images)
    assert maps.shape == (2, *shape)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    first_level = network.get_submodule(LEVELS[0])
    if level == 0:
        padded = torch.nn.functional.pad((images[:1, None] + 1) / 2, (0, 2, 0, 0, 0, 3))
        assert torch.equal(maps[:1], first_level(padded)[..., :9, :8, :6])
    assert not first_level._forward_hooks  # nothing stays behind


def test_wrong_calls_are_named(network: nn.Module, inferer: PaddedInferer) -> None:
    with pytest.raises(MedpairError, match=r"feature_layer is 'model\.7'; the network has no"):
        Features(network, inferer, "model.7")
    for call in (Segmenter(network, inferer), Features(network, inferer, LEVELS[0])):
        with pytest.raises(MedpairError, match=r"shape \(1, 1, 4, 4, 4\), wanted \(V, D, H, W\)"):
            call(torch.zeros(1, 1, 4, 4, 4))
