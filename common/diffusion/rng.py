"""Counter-based normal noise: a function of (seed, volume, stage, window, step, element).

Nothing is carried from draw to draw, so a volume gets the same noise alone or in any batch, on
any device, and a fused kernel can draw the same stream. Layout of the four 32-bit counter words:

    0: volume    1: stage << 24 | window    2: step << 8 | purpose    3: element // 4

The key is the 64-bit seed. Words (0, 1) and (2, 3) of the output each give two normals.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.errors import MedpairError
from common.kernels.reference import normals, philox

NoiseSource = Callable[[int, str], Tensor]

STAGES = {"mcdpm": 1, "vid2vid": 2, "sdm": 3, "gem3d": 4, "alpha_wgan": 5}
PURPOSES = {"step": 0, "known": 1, "resample": 2, "init": 3}

_MASK = 0xFFFFFFFF


def philox4x32(counter: Tensor, key: Sequence[int]) -> Tensor:
    """Philox-4x32-10: four random 32-bit words for each counter.

    Args:
        counter: (N, 4) int64, each word in 0..2^32-1.
        key: two words, each in 0..2^32-1.

    Returns:
        (N, 4) int64, each word uniform in 0..2^32-1.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011), section 3.3.
    """
    a, b, c, d = counter.unbind(-1)
    return torch.stack(philox((a, b, c, d), (int(key[0]), int(key[1]))), -1)


def normal(
    seed: int,
    *,
    volume: Sequence[int],
    stage: int,
    window: Sequence[int],
    step: int,
    shape: Sequence[int],
    purpose: str = "step",
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise for a batch of windows.

    Args:
        seed: the run's seed, 0..2^64-1.
        volume: (B,) volume numbers, 0..2^32-1.
        stage: stage number, 0..255, see `STAGES`.
        window: (B,) window numbers, 0..2^24-1.
        step: number of the draw along the trajectory, 0..2^24-1.
        shape: shape of one sample.
        purpose: what the draw is for, a key of `PURPOSES`.
        device: where to draw; the values do not depend on it beyond rounding.
        dtype: floating type of the result.

    Returns:
        (B, *shape) noise; sample i depends only on volume[i] and window[i], not on its neighbours.

    Raises:
        MedpairError: if a number leaves its range or the purpose is unknown.
    """
    return NoiseStream(seed, volume, stage, window, shape, device, dtype)(step, purpose)


class NoiseStream:
    """The noise source of one batch of windows: `stream(step, purpose)` is (B, *shape).

    `keys_B4`, int64 on the device, holds what sets the samples apart: volume word, stage and window
    word, low and high word of the seed. Kernels draw the same stream from it.

    Args: as for `normal`.

    Raises:
        MedpairError: if a number leaves its range.
    """

    def __init__(
        self,
        seed: int,
        volumes: Sequence[int],
        stage: int,
        windows: Sequence[int],
        shape: Sequence[int],
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if len(volumes) != len(windows):
            raise MedpairError(
                f"windows: {len(windows)} numbers; want {len(volumes)}, one per volume; repair both"
            )
        _check("seed", [seed], 64)
        _check("volume", volumes, 32)
        _check("stage", [stage], 8)
        _check("window", windows, 24)
        self.shape = tuple(shape)
        self.dtype = dtype
        key = (seed & _MASK, seed >> 32)
        keys = [(v, stage << 24 | w, *key) for v, w in zip(volumes, windows, strict=True)]
        self.keys_B4 = torch.tensor(keys, dtype=torch.int64, device=device).reshape(-1, 4)

    def __call__(self, step: int, purpose: str = "step") -> Tensor:
        """Noise of one draw, (B, *shape). Args and errors as for `normal`."""
        elements = normals(self.keys_B4, draw_word(step, purpose), math.prod(self.shape))
        return elements.reshape(len(elements), *self.shape).to(self.dtype)


def draw_word(step: int, purpose: str) -> int:
    """The third counter word of a draw. Args and errors as for `normal`."""
    _check("step", [step], 24)
    if purpose not in PURPOSES:
        raise MedpairError(f"purpose: {purpose!r}; want one of {sorted(PURPOSES)}; change it")
    return step << 8 | PURPOSES[purpose]


def _check(key: str, values: Sequence[int], bits: int) -> None:
    wrong = [v for v in values if not 0 <= v < 1 << bits]
    if wrong:
        raise MedpairError(f"{key}: {wrong[0]}; want 0..2^{bits}-1; choose another number")
