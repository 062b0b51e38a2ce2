"""How networks and volumes are laid out for training."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from common.data.datasets import load_arrays
from common.engines.checkpoints import Ema
from common.engines.device import data_device, on_device


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.GELU(), nn.Conv2d(8, 2, 3))


def trained(network: nn.Module) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    for step in range(3):
        x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        torch.autograd.backward(network(x).square().mean())
        optimizer.step()
    return network.state_dict()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_network_has_its_own_names_and_learns_the_same(backend: str) -> None:
    plain, compiled = (on_device(make_network(), "cpu", compile=c) for c in (False, backend))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(trained(compiled), trained(plain))


def test_compile_reaches_the_networks_own_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, backend: asked.append(backend))
    for choice in (False, True, "eager"):
        on_device(make_network(), "cpu", compile=choice)
    assert asked == ["inductor", "eager"]


def test_averages_and_copies_of_a_compiled_network_are_not_compiled() -> None:
    network = on_device(make_network(), "cpu", compile="eager")
    ema = Ema(network)
    assert list(ema.network.state_dict()) == list(network.state_dict())
    for copied in (ema.network, deepcopy(network)):
        assert getattr(copied, "_compiled_call_impl", None) is None


@pytest.mark.parametrize("channels_last", [True, False])
def test_kernels_lie_as_asked_for(channels_last: bool) -> None:
    network = on_device(make_network(), "cpu", channels_last=channels_last)
    assert isinstance(network, nn.Sequential)
    weight = network[0].weight
    assert isinstance(weight, torch.Tensor)
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_volumes_go_to_a_device_only_where_they_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = load_arrays("phantom:brain4:16x16x16:2")
    each = 5 * 2 * 16**3  # bytes of both volumes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * each, 20 * each))
    assert data_device("cpu", data, copies=100) == torch.device("cpu")
    assert data_device("cuda:0", data, copies=3) == torch.device("cuda:0")
    assert not caplog.records
    assert data_device("cuda:0", data, copies=4) == torch.device("cpu")
    assert "they stay in the CPU's memory" in caplog.text
