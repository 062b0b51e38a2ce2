"""Training batches that depend only on (seed, iteration), which makes resuming exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from common.engines.distributed import rank

Batch = dict[str, Any]
DrawBatch = Callable[[torch.Generator], Batch]


def iteration_generator(seed: int, iteration: int) -> torch.Generator:
    """Return the CPU generator of one training iteration, equal in every run and process."""
    mixed = (seed * 0x9E3779B97F4A7C15 + iteration * 0xBF58476D1CE4E5B9) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator().manual_seed(mixed)


def epoch_length(max_iterations: int, longest: int = 500) -> int:
    """Return iterations per epoch, at most ``longest``, so that whole epochs make up the run."""
    epochs = -(-max(1, max_iterations) // longest)
    return -(-max(1, max_iterations) // epochs)


class IterationBatches:
    """An endless stream of batches, cut into epochs; batch i is drawn with generator (seed, i).

    Args:
        draw: makes a batch from a generator; batches carry "iteration" for further draws.
        seed: the run's seed.
        epoch_length: batches per epoch (the unit of progress bars and validation intervals).
    """

    def __init__(self, draw: DrawBatch, seed: int, epoch_length: int) -> None:
        self.draw, self.epoch_length = draw, epoch_length
        self.seed = seed + 1_000_003 * rank()  # every process of a distributed run draws its own
        self.iteration = 0

    def __len__(self) -> int:
        return self.epoch_length

    def __iter__(self) -> Iterator[Batch]:
        while True:
            iteration = self.iteration
            self.iteration += 1
            batch = self.draw(iteration_generator(self.seed, iteration))
            yield batch | {"iteration": iteration, "seed": self.seed}


class FixedBatches:
    """A few batches that are equal at every validation.

    Args:
        draw: makes a batch from a generator.
        count: number of batches.
        seed: fixes what is drawn.
    """

    def __init__(self, draw: DrawBatch, count: int = 8, seed: int = 1_000_003) -> None:
        self.draw, self.count, self.seed = draw, count, seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        for index in range(self.count):
            batch = self.draw(iteration_generator(self.seed, index))
            yield batch | {"iteration": index, "seed": self.seed}
