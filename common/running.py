"""How the stages of a generation run: batches, exactness, compilation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from common.engines.compiled import compile_steps
from common.engines.device import pick_device
from common.errors import MedpairError
from common.jobs import Geometry, Stage
from common.kernels import use_triton

MOST_VOLUMES = {"cpu": 4, "cuda": 32}
"""Volumes per batch that a memory budget may ask for; more only makes CPUs slower (measured)."""
_MARGIN = 1.3  # scratch of libraries and what allocators leave unused
_GIB = 2.0**30


@dataclass(frozen=True)
class Running:
    """How the stages of a generation run.

    Args:
        exact: on CUDA deterministic algorithms alone, and everywhere no smaller batches where
            memory runs out: equal seeds then give equal bytes on one machine. A CPU has no other
            algorithms.
        compile: torch.compile for the networks; rounding differs.
        batch_volumes: volumes per batch; None takes the preset's.
        memory_gib: choose it by this budget, GiB.

    Raises:
        MedpairError: for numbers outside their range, or both given.
    """

    exact: bool = False
    compile: bool = False
    batch_volumes: int | None = None
    memory_gib: float | None = None

    def __post_init__(self) -> None:
        if self.batch_volumes is not None and self.batch_volumes < 1:
            raise MedpairError(
                f"--batch-volumes: {self.batch_volumes}, wanted >= 1; ask for at least one"
            )
        if self.memory_gib is not None and self.memory_gib <= 0:
            raise MedpairError(f"--memory-gib: {self.memory_gib:g}, wanted > 0 GiB; correct it")
        if self.batch_volumes is not None and self.memory_gib is not None:
            raise MedpairError(
                "--batch-volumes and --memory-gib are both given, wanted one; leave one out"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What of it decides bytes and is not the usual, for the manifest."""
        found: dict[str, Any] = dict.fromkeys(self.flags, True)
        device = pick_device()
        if device.type == "cuda":  # rounding is not that of plain torch
            found["kernels"] = "triton" if use_triton(torch.zeros(1, device=device)) else "torch"
        return found

    @property
    def flags(self) -> list[str]:
        """Which of the choices that are off by default are on."""
        return [key for key in ("exact", "compile") if getattr(self, key)]

    def words(self) -> list[str]:
        """Return the options of the command line that say it."""
        flags = [f"--{key}" for key in self.flags]
        numbers = {"--batch-volumes": self.batch_volumes, "--memory-gib": self.memory_gib}
        given = [(key, str(value)) for key, value in numbers.items() if value is not None]
        return [*flags, *(word for pair in given for word in pair)]

    def prepare(self, stages: Mapping[str, Stage], geometry: Geometry) -> Geometry:
        """Make opened stages run this way; return the geometry with the volumes per batch."""
        chosen = replace(geometry, batch_volumes=self.volumes(stages, geometry))
        self.accelerate(stages)
        return chosen

    def accelerate(self, stages: Mapping[str, Stage]) -> None:
        """Choose algorithms and compile networks as asked."""
        if self.exact:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
        if self.compile:
            for network in {id(n): n for s in stages.values() for n in _networks(s)}.values():
                compile_steps(network)

    @contextmanager
    def algorithms(self) -> Iterator[None]:
        """Let CUDA use deterministic algorithms alone in the block, where that is asked for."""
        if not (self.exact and torch.cuda.is_available()):
            yield
            return
        before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.benchmark = before[1]

    def volumes(self, stages: Mapping[str, Stage], geometry: Geometry) -> int:
        """Return the volumes per batch.

        Args:
            stages: opened, by name; those with ``working_bytes`` say what they need.
            geometry: of the volumes.

        Raises:
            MedpairError: if not even one volume fits the budget.
        """
        if self.memory_gib is None:
            return self.batch_volumes or geometry.batch_volumes
        needed, volumes = 0.0, MOST_VOLUMES[pick_device().type]
        while volumes >= 1:
            needed = counted_gib(stages, replace(geometry, batch_volumes=volumes))
            if needed <= self.memory_gib:
                return volumes
            volumes //= 2
        raise MedpairError(
            f"--memory-gib: {self.memory_gib:g}, wanted {needed:.3g} for one volume; raise "
            "it or choose a smaller preset"
        )


def counted_gib(stages: Mapping[str, Stage], geometry: Geometry) -> float:
    """Return the memory in GiB that stages need together, beside the process itself.

    Args:
        stages: opened, by name; they run one after the other, their weights stay.
        geometry: of the volumes, with their number per batch.
    """
    working = (_working(s, geometry) for s in stages.values())
    return (_weights(stages) + _MARGIN * max(working, default=0.0)) / _GIB


def _working(stage: Stage, geometry: Geometry) -> float:
    working: Any = getattr(stage, "working_bytes", None)
    return 0.0 if working is None else float(working(geometry.batch_volumes, geometry.size))


def _weights(stages: Mapping[str, Stage]) -> int:
    """The bytes of all networks, which are in memory together."""
    networks = {id(n): n for stage in stages.values() for n in _networks(stage)}
    return sum(p.nbytes for network in networks.values() for p in network.parameters())


def _networks(stage: Stage) -> list[nn.Module]:
    """Return the networks that a stage holds, itself or in one of its parts."""
    parts = [stage, *vars(stage).values()] if hasattr(stage, "__dict__") else []
    found = [v for part in parts if hasattr(part, "__dict__") for v in vars(part).values()]
    return [value for value in found if isinstance(value, nn.Module)]
