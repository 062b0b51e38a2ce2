"""Training batches that depend only on (seed, iteration), which makes resuming exact."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import torch
from torch import Tensor

from common.engines.distributed import rank

Batch = dict[str, Any]
Device = str | torch.device | None
DrawBatch = Callable[[torch.Generator], Batch]


def iteration_generator(seed: int, iteration: int) -> torch.Generator:
    """Return the CPU generator of one training iteration, equal in every run and process."""
    mixed = (seed * 0x9E3779B97F4A7C15 + iteration * 0xBF58476D1CE4E5B9) & 0x7FFFFFFFFFFFFFFF
    return torch.Generator().manual_seed(mixed)


def moved(batch: Mapping[str, Any], device: Device, non_blocking: bool = False) -> Batch:
    """Return a batch with its tensors on a device; what is there already stays as it is."""
    return {
        key: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise of the shape and on the device of ``x``, float32.

    On another device than the CPU it is drawn there, with a seed from ``generator``: a batch of
    noise from the CPU would keep the device waiting.

    Args:
        x: gives shape and device.
        generator: a CPU generator; equal ones give equal noise on one kind of device.
    """
    if x.device.type == "cpu":
        return torch.randn(x.shape, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    there = torch.Generator(x.device).manual_seed(seed)
    return torch.randn(x.shape, generator=there, device=x.device)


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
        ahead: batches that a thread draws while the network trains, at least 0; they are the same.
    """

    def __init__(self, draw: DrawBatch, seed: int, epoch_length: int, ahead: int = 0) -> None:
        self.draw, self.epoch_length, self.ahead = draw, epoch_length, ahead
        self.seed = seed + 1_000_003 * rank()  # every process of a distributed run draws its own
        self.iteration = 0

    def __len__(self) -> int:
        return self.epoch_length

    def __iter__(self) -> Iterator[Batch]:
        for batch in made_ahead(self.make, self.iteration, self.ahead):
            self.iteration += 1
            yield batch

    def make(self, iteration: int) -> Batch:
        """Return the batch of an iteration, counted from 0."""
        batch = self.draw(iteration_generator(self.seed, iteration))
        return batch | {"iteration": iteration, "seed": self.seed}


def made_ahead(make: Callable[[int], Batch], first: int, ahead: int) -> Iterator[Batch]:
    """Yield ``make(first)``, ``make(first + 1)``, ..., of which a thread makes some before.

    Args:
        make: makes a batch; called in order, and by one thread only.
        first: number of the first batch.
        ahead: batches that wait; 0 makes each when it is asked for.
    """
    if not ahead:
        yield from map(make, count(first))
    pool = ThreadPoolExecutor(1, "batches")
    try:
        waiting = deque(pool.submit(make, first + k) for k in range(ahead))
        for number in count(first + ahead):
            batch = waiting.popleft().result()
            waiting.append(pool.submit(make, number))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


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
