"""What a sampler's move does to the state, as numbers: one row of a table on the device.

With x the state, o the guided output of the network and z standard normal noise, a row says

    x_0 = x0_x x + x0_out o, clipped to clip_low..clip_high where the table is clipped
    eps = eps_x x + eps_out (x_0 where the table is clipped, else o)
    x'  = by_x x + by_x0 x_0 + by_eps eps + by_last last + std z(step_word)
    x'  = known_alpha known + known_sigma z(known_word)   where a slice is known

`last` is the x_0 of the network call before. All samplers, jumps back and starts are such rows, so
a trajectory can be replayed without the host knowing where it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.errors import MedpairError


class TailRow(NamedTuple):
    """One move; see the module.

    Args:
        x0_x, x0_out: weights of x and o in x_0.
        eps_x, eps_out: weights of x and of o (clipped: of x_0) in eps.
        by_x, by_x0, by_eps, by_last, std: weights in the next state.
        known_alpha, known_sigma: amplitudes of the known slices' data and noise.
        clip_low, clip_high: range of x_0.
        step_word, known_word: third counter word of the two draws, 0..2^32-1, see
            `common.diffusion.rng`.
    """

    x0_x: float = 0.0
    x0_out: float = 0.0
    eps_x: float = 0.0
    eps_out: float = 0.0
    by_x: float = 0.0
    by_x0: float = 0.0
    by_eps: float = 0.0
    by_last: float = 0.0
    std: float = 0.0
    known_alpha: float = 1.0
    known_sigma: float = 0.0
    clip_low: float = -math.inf
    clip_high: float = math.inf
    step_word: int = 0
    known_word: int = 0


NUMBERS = TailRow._fields.index("step_word")
WIDTH = 16  # of a row of numbers: 64 bytes, so that every row starts at an aligned address


class TailTable(NamedTuple):
    """The rows of a trajectory on a device.

    Args:
        numbers: (R, WIDTH) float32, the fields of `TailRow` up to clip_high, then zeros.
        words: (R, 2) int64, step_word and known_word.
        clipped: whether x_0 is clipped and eps made from the clipped x_0.
        noisy: whether any row draws noise.
    """

    numbers: Tensor
    words: Tensor
    clipped: bool
    noisy: bool

    @classmethod
    def pack(
        cls, rows: Sequence[TailRow], clipped: bool, device: torch.device | str | None = None
    ) -> TailTable:
        """Put rows on a device.

        Raises:
            MedpairError: if a weight is not finite, as at a level without noise or signal.
        """
        for number, row in enumerate(rows):
            for name, value in zip(row._fields[:NUMBERS], row[:NUMBERS], strict=True):
                if not math.isfinite(value) and not name.startswith("clip"):
                    raise MedpairError(
                        f"{name}: {value} in move {number}; want a finite weight; use a schedule "
                        "whose levels all hold noise and, to predict eps, signal"
                    )
        padding = [0.0] * (WIDTH - NUMBERS)
        numbers = [[*row[:NUMBERS], *padding] for row in rows]
        words = [list(row[NUMBERS:]) for row in rows]
        return cls(
            torch.tensor(numbers, dtype=torch.float32, device=device),
            torch.tensor(words, dtype=torch.int64, device=device),
            clipped,
            any(row.std or row.known_sigma for row in rows),
        )


class Known(NamedTuple):
    """What the state must agree with.

    Args:
        x_0: clean data; broadcasts to the state.
        mask: bool, True where known; broadcasts to the state.
    """

    x_0: Tensor
    mask: Tensor
