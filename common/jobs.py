"""What a generation is to make: pairs of a preset's geometry, and one process's part of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.pairs import PairBatch
from common.errors import MedpairError

Stage = Callable[[PairBatch], PairBatch]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Geometry:
    """What a pipeline's preset fixes.

    Args:
        schema: label schema name.
        size: volume size (D, H, W).
        spacing: voxel size along D, H, W in mm.
        intensity: raw values that image values 0 and 1 stand for: ``lower``, ``upper``.
        batch_volumes: volumes per batch; a fixed shape, so that bytes do not depend on N.
    """

    schema: str
    size: Triple
    spacing: tuple[float, float, float]
    intensity: Mapping[str, Any]
    batch_volumes: int = 1


@dataclass(frozen=True)
class Job:
    """What one generation makes: pairs 0..num-1 of a seed.

    Args:
        out: folder of the pair set.
        num: pairs wanted.
        seed: the run's seed.
        geometry: what the preset fixes.
        start: first generated slice; None draws it.
        retries: further attempts at a pair in which a stage finds faults.
        ungated: why no stage looks for faults, where none does.
    """

    out: Path
    num: int
    seed: int
    geometry: Geometry
    start: int | None = None
    retries: int = 0
    ungated: str = "no gate among the stages"

    def __post_init__(self) -> None:
        depth = self.geometry.size[0]
        if self.num < 1:
            raise MedpairError(f"--n: {self.num}, wanted >= 1 pairs; ask for at least one")
        if not 0 <= self.seed < 1 << 64:
            raise MedpairError(f"--seed: {self.seed}, wanted 0..2^64-1; choose another seed")
        if depth < 1:
            raise MedpairError(f"--depth: {depth}, wanted >= 1 slices; ask for a deeper volume")
        if self.start is not None and not 0 <= self.start < depth:
            raise MedpairError(
                f"--start: {self.start}, wanted 0..{depth - 1}; choose another slice"
            )

    def name(self, volume: int) -> str:
        """Return the id of a pair by its volume number."""
        return f"s{self.seed}_{volume:05d}"

    def names(self) -> list[str]:
        """Return the ids of all pairs."""
        return [self.name(volume) for volume in range(self.num)]


@dataclass(frozen=True)
class Part:
    """One of several processes that share a job; each makes the batches that are its own.

    Args:
        index: 0..of-1.
        of: number of parts.
    """

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if self.of < 1:
            raise MedpairError(f"--num-parts: {self.of}, wanted >= 1; ask for at least one part")
        if not 0 <= self.index < self.of:
            raise MedpairError(
                f"--part-id: {self.index}, wanted 0..{self.of - 1}; number the parts from 0"
            )

    def takes(self, group: int) -> bool:
        """Return whether a group of volumes is this part's."""
        return group % self.of == self.index


def stage_job(
    out: str | Path,
    num: int,
    seed: int,
    schema: str,
    size: Sequence[int],
    spacing: Sequence[float],
    batch_volumes: int = 1,
    start: int | None = None,
    intensity: Mapping[str, Any] | None = None,
) -> Job:
    """Return the job of a bundle that runs alone; arguments as in `Geometry` and `Job`."""
    d, h, w = size
    geometry = Geometry(
        schema,
        (d, h, w),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        dict(intensity or {"method": "percentile", "lower": 0.0, "upper": 1.0}),
        batch_volumes,
    )
    return Job(Path(out), num, seed, geometry, start)
