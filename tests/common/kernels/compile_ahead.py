"""Compile every kernel that the self-test launches for real GPUs, without one.

Run as a program, without TRITON_INTERPRET: it prints a line per kernel and target. The interpreter
runs Python; only the compiler says what a GPU would take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from common.kernels import (
    Known,
    TailRow,
    TailTable,
    selftest,
    triton_assemble,
    triton_norm,
    triton_tail,
)

TARGETS: tuple[int, ...] = (75, 80, 90)
TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64",
    torch.int32: "i32", torch.uint8: "u8", torch.bool: "u8",
}  # fmt: skip


class Compiled:
    """Stands for a kernel: what is launched is compiled for all targets instead."""

    def __init__(self, kernel: Any, report: Callable[[str, Any], None]) -> None:
        self.kernel, self.report, self.targets = kernel, report, TARGETS

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.launch

    def launch(self, *args: Any, **options: Any) -> None:
        signature: dict[str, str] = {}
        constants: dict[tuple[int, ...], Any] = {}
        attrs: dict[tuple[int, ...], list[list[Any]]] = {}
        for i, (param, value) in enumerate(zip(self.kernel.params, args, strict=True)):
            special = not param.do_not_specialize
            if isinstance(value, torch.Tensor):
                signature[param.name] = "*" + TYPES[value.dtype]
            elif param.is_constexpr or (type(value) is int and value == 1 and special):
                signature[param.name] = "constexpr"
                constants[(i,)] = value
                continue
            elif isinstance(value, float):
                signature[param.name] = "fp32"
            else:
                signature[param.name] = "i32" if abs(value) < 2**31 else "i64"
            aligned = type(value) is int and special and value % 16 == 0
            if isinstance(value, torch.Tensor) or aligned:
                attrs[(i,)] = [["tt.divisibility", 16]]
        for target in self.targets:
            source = ASTSource(self.kernel, signature, constants, attrs)
            made = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
            self.report(f"{self.kernel.__name__} sm_{target}", made)


def kernels() -> list[tuple[Any, str]]:
    modules = (triton_assemble, triton_norm, triton_tail)
    names = [(m, n) for m in modules for n in vars(m) if n.endswith("_kernel")]
    return [(m, n) for m, n in names if hasattr(getattr(m, n), "params")]


def main(dump: bool) -> None:
    def report(line: str, made: Any) -> None:
        print(line, len(made.asm["cubin"]), "bytes", made.metadata.shared, "shared", flush=True)
        if dump and "sm_90" in line:
            print(made.asm["ttir"])

    stands = [(m, n, Compiled(getattr(m, n), report)) for m, n in kernels()]
    for module, name, compiled in stands:
        setattr(module, name, compiled)
    for case in selftest.cases(torch.device("cpu")):
        if case.name != "group_norm_silu, large":  # the same kernels in bfloat16 follow
            case.run()
    for _, _, compiled in stands:
        compiled.targets = TARGETS[-1:]
    jump_back()


def jump_back() -> None:
    """What the self-test leaves out: no network, a row number on the device, four axes."""
    turned = torch.zeros(2, 3, 4, 5, 6).permute(0, 4, 3, 2, 1)
    mask = torch.ones(2, 6, 1, 4, 1, dtype=torch.bool)
    table = TailTable.pack([TailRow(std=1.0)], clipped=False)
    keys, row = torch.zeros(2, 4, dtype=torch.int64), torch.zeros(1, dtype=torch.int32)
    x = turned.contiguous()
    triton_tail.sampler_tail(x, table, row, None, (1.0,), Known(turned, mask), keys, None)


if __name__ == "__main__":
    main("dump" in sys.argv)
