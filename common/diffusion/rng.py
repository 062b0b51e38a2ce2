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

NoiseSource = Callable[[int, str], Tensor]

STAGES = {"mcdpm": 1, "vid2vid": 2, "sdm": 3, "gem3d": 4, "alpha_wgan": 5}
PURPOSES = {"step": 0, "known": 1, "resample": 2, "init": 3}

_MASK = 0xFFFFFFFF
_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_Words = tuple[Tensor, Tensor, Tensor, Tensor]


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
    return torch.stack(_philox((a, b, c, d), (int(key[0]), int(key[1]))), -1)


def _philox(words: _Words, key: tuple[int, int]) -> _Words:
    """Ten rounds on words that broadcast with each other."""
    a, b, c, d = words
    k_0, k_1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64, which leaves the bits of the unsigned product
        left, right = a * _MULTIPLY[0], c * _MULTIPLY[1]
        a, c = ((right >> 32) & _MASK) ^ b ^ k_0, ((left >> 32) & _MASK) ^ d ^ k_1
        b, d = right & _MASK, left & _MASK
        k_0, k_1 = (k_0 + _WEYL[0]) & _MASK, (k_1 + _WEYL[1]) & _MASK
    return a, b, c, d


def _box_muller(word_r: Tensor, word_phi: Tensor) -> tuple[Tensor, Tensor]:
    """Two normals from two words; float64, so that devices agree after rounding to float32."""
    radius = ((word_r.to(torch.float64) + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = (word_phi.to(torch.float64) + 0.5) * (2 * math.pi * 2.0**-32)
    return radius * angle.cos(), radius * angle.sin()


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
        self._key = (seed & _MASK, seed >> 32)
        stage_window = [stage << 24 | w for w in windows]
        self._volume = torch.tensor(list(volumes), dtype=torch.int64, device=device)[:, None]
        self._window = torch.tensor(stage_window, dtype=torch.int64, device=device)[:, None]
        blocks = -(-math.prod(self.shape) // 4)
        self._block = torch.arange(blocks, dtype=torch.int64, device=device)[None, :]

    def __call__(self, step: int, purpose: str = "step") -> Tensor:
        """Noise of one draw, (B, *shape). Args and errors as for `normal`."""
        _check("step", [step], 24)
        if purpose not in PURPOSES:
            raise MedpairError(f"purpose: {purpose!r}; want one of {sorted(PURPOSES)}; change it")
        word = torch.full_like(self._block, step << 8 | PURPOSES[purpose])
        a, b, c, d = _philox((self._volume, self._window, word, self._block), self._key)
        quads = torch.stack([*_box_muller(a, b), *_box_muller(c, d)], -1).flatten(1)
        elements = quads[:, : math.prod(self.shape)]
        return elements.reshape(len(elements), *self.shape).to(self.dtype)


def _check(key: str, values: Sequence[int], bits: int) -> None:
    wrong = [v for v in values if not 0 <= v < 1 << bits]
    if wrong:
        raise MedpairError(f"{key}: {wrong[0]}; want 0..2^{bits}-1; choose another number")
