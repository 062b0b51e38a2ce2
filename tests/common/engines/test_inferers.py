import pytest
import torch
from torch import nn

from common.engines import inferers
from common.engines.inferers import AutocastInferer, precision_context, resolve_precision
from common.errors import MedpairError


class Spy(nn.Module):
    """Remember the type that the matrix product came out in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(4, 4), torch.float64

    def forward(self, x: torch.Tensor, scale: float, *, shift: float = 0.0) -> torch.Tensor:
        y = self.linear(x)
        self.seen = y.dtype
        return y * scale + shift


@pytest.mark.parametrize(("precision", "inside"), [("bf16", torch.bfloat16), ("fp32", torch.float)])
def test_the_network_runs_in_the_precision_and_its_output_is_float32(
    precision: str, inside: torch.dtype
) -> None:
    network, x = Spy(), torch.randn(2, 4)
    output = AutocastInferer(precision)(x, network, 2.0, shift=1.0)
    assert network.seen == inside
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, network.linear(x) * 2 + 1, atol=0.05, rtol=0.05)


def test_auto_is_one_of_the_precisions_and_fits_the_device() -> None:
    assert resolve_precision("cpu", "auto") in ("bf16", "fp32")
    with precision_context("cpu", "fp32"):
        assert not torch.is_autocast_enabled("cpu")


def test_another_precision_is_refused_before_any_work() -> None:
    with pytest.raises(MedpairError, match=r"precision is 'half'; use 'auto' or one of"):
        AutocastInferer("half")


def test_wrong_bf16_convolutions_are_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = torch.device("cpu")
    inferers.bf16_is_right.cache_clear()
    assert inferers.bf16_is_right(device)
    inferers.bf16_is_right.cache_clear()
    right = inferers.functional.conv3d

    def wrong(x: torch.Tensor, *words: torch.Tensor, **options: int) -> torch.Tensor:
        return right(x, *words, **options) * (1.2 if x.dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(inferers.functional, "conv3d", wrong)
    assert not inferers.bf16_is_right(device)
    inferers.bf16_is_right.cache_clear()
    assert "fp32 is used" in caplog.text
