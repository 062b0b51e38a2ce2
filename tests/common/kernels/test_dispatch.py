"""Which implementation runs, and what is said where Triton cannot."""

from __future__ import annotations

import functools
import importlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from common.engines.footprint import peak_bytes
from common.errors import MedpairError
from common.kernels import dispatch, group_norm_silu, reference, selftest
from tests.common.kernels.conftest import INTERPRETED

X = torch.linspace(-1, 1, 24).reshape(1, 4, 2, 3)
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MEDPAIR_KERNELS", raising=False)
    monkeypatch.setattr(selftest, "_verdicts", {})
    for cached in (dispatch.obstacle, dispatch.say_once):
        cached.cache_clear()
    yield
    for cached in (dispatch.obstacle, dispatch.say_once):
        cached.cache_clear()


class OnCuda:
    """Says of itself what a CUDA tensor would."""

    dtype, device, is_cuda, requires_grad, shape = torch.float32, CUDA, True, False, (1, 4, 2, 3)

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype

    def numel(self) -> int:
        return 24

    def __len__(self) -> int:
        return 1


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _=None: "a GPU")


def test_the_cpu_runs_the_reference_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert torch.equal(group_norm_silu(X, 2), reference.group_norm_silu(X, 2))
    assert not dispatch.use_triton(X)
    assert not caplog.records


def test_importing_imports_no_triton() -> None:
    code = (
        "import sys, torch, common.kernels as k; k.group_norm_silu(torch.ones(2, 4, 3), 2); "
        "assert not [m for m in sys.modules if m.split('.')[0] == 'triton']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPAIR_KERNELS", "fast")
    with pytest.raises(MedpairError, match="'fast'; want one of auto, reference, triton; change"):
        group_norm_silu(X, 2)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes the CPU")
def test_triton_on_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton cannot be imported here")
    monkeypatch.setenv("MEDPAIR_KERNELS", "triton")
    with pytest.raises(MedpairError, match="tensors lie on the CPU, want CUDA or TRITON_INTERPRET"):
        group_norm_silu(X, 2)


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        ({"triton": None}, "triton cannot be imported .*, want 3.5 or later"),
        ({"capability": (7, 0)}, "CUDA capability 7.0, want 7.5 or more"),
        ({"dtype": torch.float64}, "a tensor is float64, want float32, bfloat16 or float16"),
        ({"capability": (7, 5), "dtype": torch.bfloat16}, "bfloat16 wants CUDA capability 8.0"),
        ({"verdict": "the self-test of x differs"}, "the self-test of x differs"),
    ],
)
def test_what_cuda_lacks_is_one_line_once_or_a_refusal(
    breaks: dict[str, Any],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if "triton" in breaks:
        monkeypatch.setitem(sys.modules, "triton", None)
    else:
        pytest.importorskip("triton", reason="triton cannot be imported here")
    gpu(monkeypatch, breaks.get("capability", (9, 0)))
    monkeypatch.setattr(selftest, "verdict", lambda *_: breaks.get("verdict"))
    x: Any = OnCuda(breaks.get("dtype", torch.float32))
    with caplog.at_level(logging.WARNING, "medpair"):
        assert not dispatch.use_triton(x)
        assert not dispatch.use_triton(x)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("kernels: plain torch instead of Triton, since ")
    monkeypatch.setenv("MEDPAIR_KERNELS", "triton")
    with pytest.raises(MedpairError, match=says) as caught:
        dispatch.use_triton(x)
    assert "\n" not in str(caught.value) + line


def test_a_gpu_that_passes_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton cannot be imported here")
    gpu(monkeypatch, (9, 0))
    monkeypatch.setattr(selftest, "verdict", lambda *_: None)
    x: Any = OnCuda()
    assert dispatch.use_triton(x)
    monkeypatch.setenv("MEDPAIR_KERNELS", "reference")
    assert not dispatch.use_triton(x)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit")
def test_traces_hold_plain_operations(device: torch.device, monkeypatch: Any) -> None:
    monkeypatch.setenv("MEDPAIR_KERNELS", "triton")
    x = X.to(device)
    traced = torch.jit.trace(lambda t: group_norm_silu(t, 2), x)
    assert "group_norm" in str(traced.graph)


def test_tensors_without_data_never_reach_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory estimate must neither launch nor decide what runs afterwards."""
    monkeypatch.setenv("MEDPAIR_KERNELS", "triton")

    @functools.cache
    def looked(_: torch.device) -> str:
        pytest.fail("looked at a device")

    monkeypatch.setattr(dispatch, "obstacle", looked)
    assert peak_bytes(lambda: group_norm_silu(torch.zeros(1, 4, 2, 3), 2)) > 0


def test_empty_and_unsupported_tensors_run_on_the_reference_or_are_refused(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDPAIR_KERNELS", "triton")
    with pytest.raises(MedpairError, match="float64"):
        group_norm_silu(X.double().to(device), 2)
    wide = torch.ones(1, 2048, 2, 2, device=device)
    with pytest.raises(MedpairError, match="2048 channels, want 1024 at most"):
        group_norm_silu(wide, 1)
    with pytest.raises(MedpairError, match="do not have 4 values, one per channel"):
        group_norm_silu(X.to(device), 2, torch.ones(3, device=device))
    monkeypatch.setenv("MEDPAIR_KERNELS", "auto")
    assert torch.equal(group_norm_silu(wide, 1), reference.group_norm_silu(wide, 1))


def test_self_test_passes(device: torch.device) -> None:
    assert selftest.verdict(device, ("x",)) is None
    assert selftest._verdicts == {("x",): None}


@pytest.mark.parametrize(
    ("module", "name", "breaks", "says"),
    [
        ("triton_norm", "modulated_norm", lambda y: y * 1.001, "group_norm_silu, float32 differs"),
        ("triton_tail", "sampler_tail", lambda y: y + 1e-3, "sampler_tail differs by 0.00"),
        ("triton_assemble", "one_hot", lambda y: y * float("nan"), "one_hot differs by nan"),
        ("triton_assemble", "assemble_window", lambda y: y[: 1 // 0], "failed with ZeroDivision"),
    ],
)
def test_a_broken_kernel_is_found(
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    name: str,
    breaks: Any,
    says: str,
) -> None:
    found = importlib.import_module(f"common.kernels.{module}")
    whole = getattr(found, name)
    monkeypatch.setattr(found, name, lambda *args: breaks(whole(*args)))
    said = selftest.verdict(device, ("broken",))
    assert said is not None
    assert says in said
    monkeypatch.undo()
    assert selftest._verdicts.get(("broken",), said) == said
