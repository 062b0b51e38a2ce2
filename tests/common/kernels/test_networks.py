"""Whole networks and samplers through the kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.networks.unet import UNet
from sdm.network import SemanticDenoiser
from vid2vid.generator import Head


def randomised(network: nn.Module) -> nn.Module:
    """Random values everywhere: the output layers start at zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return network.eval()


class Semantic(nn.Module):
    """The semantic denoiser with its mask branch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SemanticDenoiser(4, channels=(8, 12), embedding=16, mask_hidden=4)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        return self.inner(x, t, self.inner.modulations(mask), torch.zeros(2, 2, device=x.device))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


MASK = torch.nn.functional.one_hot(torch.arange(512).view(2, 16, 16) % 4, 4).movedim(-1, 1).float()
CASES = {
    "unet": (UNet(3, 2, (8, 12), 16), (draw(2, 3, 16, 16), draw(2, 16, seed=1))),
    "semantic": (Semantic(), (draw(2, 1, 16, 16), torch.tensor([3.0, 700.0]), MASK)),
    "head": (Head(4, 8, 2, 16), (draw(2, 4, 16, 16), draw(2, 16, seed=1))),
}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(CASES))
@torch.no_grad()
def test_networks_put_out_what_they_put_out_in_plain_torch(
    device: torch.device, name: str, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = CASES[name]
    network = randomised(network).to(device)
    moved = [value.to(device) for value in inputs]
    found = {}
    for mode in ("triton", "reference"):
        monkeypatch.setenv("MEDPAIR_KERNELS", mode)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            found[mode] = network(*moved)
    assert found["triton"].dtype == found["reference"].dtype
    size = float(found["reference"].abs().max())
    assert size > 0.1
    difference = float((found["triton"] - found["reference"]).abs().max()) / size
    assert difference < (2e-5 if precision == torch.float32 else 0.05)
