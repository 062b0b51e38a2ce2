"""R8: the kernels against plain torch and torch.compile, in GB/s and as a share of a copy.

Shapes are those of the mask denoiser (128 x 128), the refiner (320 x 320) and GEM-3D. On a
CPU plain torch and torch.compile run alone: the interpreter of Triton is for tests.

    python benchmarks/r8_kernels.py --out r8.json
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from race import arguments, check, finish, limits, race
from torch import Tensor

from common import kernels
from common.diffusion.fused import fused_sample
from common.diffusion.overlap import KnownSlices
from common.diffusion.rng import NoiseStream
from common.diffusion.samplers import ddim
from common.diffusion.schedules import build_schedule, select_timesteps
from common.kernels import reference

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-4, "bf16": 0.06}
SHAPES = {"mask": (1, 256, 64, 64), "refiner": (8, 64, 320, 320), "latents": (16, 128, 64, 64)}
SMALL = {"mask": (1, 64, 20, 20), "refiner": (8, 32, 40, 40), "latents": (16, 64, 10, 10)}
Case = tuple[Callable[[], Tensor], Callable[[], Tensor], int]


def norm_cases(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> dict[str, Case]:
    """Return for each norm: ours, the reference, and the bytes that must move."""
    x = torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    n, c = shape[:2]
    weight, bias = torch.randn(2, c, device=device)
    maps = torch.randn(n, 2 * c, *shape[2:], device=device, dtype=dtype)
    maps = maps.to(memory_format=torch.channels_last)
    pair = [tuple(maps.chunk(2, dim=1))]

    def plain(function: Any) -> Tensor:
        return function(x, 8, weight, bias)

    def spade(function: Any) -> Tensor:
        return function(x, 8, pair, silu=True)

    return {
        "group norm + SiLU": (
            lambda: plain(kernels.group_norm_silu),
            lambda: plain(reference.group_norm_silu),
            2 * x.nbytes,
        ),
        "SPADE + SiLU": (
            lambda: spade(kernels.modulated_norm),
            lambda: spade(reference.modulated_norm),
            2 * x.nbytes + maps.nbytes,
        ),
    }


def tail_case(shape: tuple[int, ...], device: str) -> Case:
    """Return a trajectory of five steps whose network costs nothing, guided by two passes."""
    schedule, steps = build_schedule("cosine", 1000), select_timesteps(1000, 5)
    noise = NoiseStream(0, list(range(shape[0])), 1, [0] * shape[0], shape[1:], device)
    x, outputs = noise(0, "init"), torch.randn(2 * shape[0], *shape[1:], device=device)
    mask = torch.zeros(shape[0], shape[1], 1, 1, dtype=torch.bool, device=device)
    mask[:, :2] = True
    known = KnownSlices(torch.zeros_like(x), mask)

    class Denoiser:
        def passes(self, _x: Tensor, _t: Tensor) -> tuple[Tensor, tuple[float, float]]:
            return outputs, (-0.75, 1.75)

        def __call__(self, _x: Tensor, _t: Tensor) -> Tensor:
            return -0.75 * outputs[: shape[0]] + 1.75 * outputs[shape[0] :]

    words: dict[str, Any] = {"noise": noise, "prediction": "v", "overlap": known, "eta": 1.0}
    args = (Denoiser(), x, schedule, steps)
    bytes_moved = 5 * (2 * x.nbytes + outputs.nbytes)

    def fused() -> Tensor:
        return fused_sample("ddim", *args, **words)

    def plain() -> Tensor:
        return ddim(*args, **words)

    return fused, plain, bytes_moved


def one(case: Case, words: Any, best: dict[str, float], compiled: bool) -> dict[str, Any]:
    """Check and race one kernel."""
    ours, plain, size = case
    difference = check("the kernel", ours(), plain(), TOLERANCE[words.precision])
    runs: dict[str, Any] = {"Triton": ours, "plain torch": plain}
    if words.device != "cuda":
        del runs["Triton"]  # there ours is plain torch
    if compiled and words.compile:
        runs["torch.compile"] = torch.compile(plain, dynamic=False)
    times = race(runs, words.repeats, words.device)
    reached = {name: size / v["seconds"] / 1e9 for name, v in times.items()}
    share = {name: value / best["copy_gb_per_s"] for name, value in reached.items()}
    return {
        "largest_difference": difference,
        "contestants": times,
        "gb_per_s": reached,
        "share_of_copy": share,
    }


@torch.no_grad()
def main() -> None:
    """Race all kernels at all shapes."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true")
    words = parser.parse_args()
    best = limits(words.device, words.precision)
    found: dict[str, Any] = {}
    for name, shape in (SHAPES if words.device == "cuda" else SMALL).items():
        cases = norm_cases(shape, DTYPES[words.precision], words.device)
        found[name] = {key: one(case, words, best, True) for key, case in cases.items()}
        tail = tail_case(shape, words.device)
        found[name]["sampler tail, 5 steps"] = one(tail, words, best, False)
        found[name]["shape"] = shape
    triton = words.device == "cuda"
    finish(words, {"benchmark": "R8 kernels", "triton": triton, "results": found, "limits": best})


if __name__ == "__main__":
    main()
