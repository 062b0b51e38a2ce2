"""Generation jobs: which pairs are missing, made batch by batch, written one by one.

A stage is a callable from `PairBatch` to `PairBatch`. The output folder with its manifest is the
queue: a finished pair is never made again. A stage may find faults; such a pair is made again with
other noise, in a batch of the same volumes, so that bytes do not depend on what was finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.attempts import Attempts, attempt_seed
from common.data.datasets import Pair, PairSet
from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.pictures import contact_sheet
from common.data.sidesets import removed
from common.data.views import from_dhw, ras_affine
from common.errors import MedpairError
from common.io.lock import exclusive
from common.io.manifest import versions
from common.io.nifti import write_volume
from common.io.usage import Usage
from common.progress import Progress, silent

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


def run_stages(
    stages: Mapping[str, Stage],
    job: Job,
    parameters: Mapping[str, Any],
    masks: PairSet | None = None,
    progress: Progress | None = None,
) -> PairSet:
    """Make the missing pairs of a job, batch by batch, and the contact sheet.

    Args:
        stages: callables by name, in order.
        job: what is to be made.
        parameters: what decides the bytes besides the job; goes to `dataset.json`.
        masks: pair set whose masks and images start the batches, in the order of its ids.
        progress: called with (stage, finished volumes, volumes).

    Returns:
        The pair set.

    Raises:
        MedpairError: if a stage leaves a pair incomplete or the folder is in use.
        IncompleteError: if a pair has faults in all attempts; the others are written.
    """
    g = job.geometry
    settings = {
        **parameters,
        "seed": job.seed,
        "start": job.start,
        "batch_volumes": g.batch_volumes,
    }
    if masks is not None:
        _check_masks(masks, g)
    with exclusive(job.out):
        schema = load_schema(g.schema)
        pairset = PairSet.create(
            job.out, schema, g.spacing, g.size, dict(g.intensity), generated=settings
        )
        run = _Run(stages, job, settings, pairset, masks, progress or silent)
        missing = run.missing()
        groups = sorted({volume // g.batch_volumes for volume in missing})
        for index, group in enumerate(groups):
            run.make(group, index, len(groups))
        if missing and pairset.ids():
            contact_sheet(pairset, job.out / "contact_sheet.png")
        run.attempts.check(job.names())
    return pairset


class _Run:
    """The groups of volumes of a job, made one after the other."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        job: Job,
        settings: Mapping[str, Any],
        pairset: PairSet,
        masks: PairSet | None,
        progress: Progress,
    ) -> None:
        self.stages, self.job, self.settings = stages, job, settings
        self.pairset, self.masks, self.progress = pairset, masks, progress
        self.attempts = Attempts(pairset, job.retries)
        self.removed = removed(pairset.dir)

    def missing(self) -> list[int]:
        """Return the volumes that can still become pairs."""
        names = {volume: self.job.name(volume) for volume in range(self.job.num)}
        done = {*self.pairset.ids(), *self.removed}
        return [v for v, n in names.items() if n not in done and not self.attempts.spent(n)]

    def make(self, group: int, index: int, count: int) -> None:
        """Make the missing pairs of a group of volumes that share all batches."""
        size = self.job.geometry.batch_volumes
        volumes = tuple(range(group * size, (group + 1) * size))
        for attempt in range(self.attempts.most):
            missing = set(self.missing()) & set(volumes)
            due = [v for v in missing if self.attempts.refused(self.job.name(v)) == attempt]
            if not due:
                continue
            batch = _first_batch(self.job, self.pairset, volumes, self.masks)
            batch = replace(batch, seed=attempt_seed(self.job.seed, attempt))
            batch = self._run_batch(batch, attempt, index, count)
            for slot, volume in enumerate(volumes):
                if volume in due:
                    self._keep(batch, slot, attempt)

    def _run_batch(self, batch: PairBatch, attempt: int, index: int, count: int) -> PairBatch:
        again = {"attempt": attempt} if attempt else {}
        for name, stage in self.stages.items():
            task = f"{name}, attempt {attempt + 1}" if attempt else name
            self.progress(task, index, count)
            usage = Usage()
            batch = stage(batch)
            volumes = list(batch.volumes)
            self.pairset.log({"stage": name, "volumes": volumes, **again, **usage.measured()})
            self.progress(task, index + 1, count)
        return batch

    def _keep(self, batch: PairBatch, slot: int, attempt: int) -> None:
        """Write a pair into the pair set, or among the refused ones."""
        pair = _pair(self.job, batch, slot)
        faults = None if batch.faults is None else batch.faults[slot]
        gate: Any = f"not run: {self.job.ungated}"
        if faults is not None:
            gate = {"passed": not faults, "attempts": attempt + 1}
        record = _record(self.job, batch, slot, self.settings) | {"gate": gate}
        if attempt:
            record["noise_seed"] = batch.seed
        if faults:
            self.attempts.refuse(pair, attempt, faults, record)
            return
        if batch.image_VDHW is None or not torch.isfinite(batch.image_VDHW[slot]).all():
            raise MedpairError(f"pair {pair.id}: NaN in the image; check the weights")
        self.pairset.write(pair, record)


def _check_masks(masks: PairSet, geometry: Geometry) -> None:
    if masks.schema.name != geometry.schema or masks.size != geometry.size:
        raise MedpairError(
            f"{masks.dir}: schema {masks.schema.name}, size {masks.size}; wanted "
            f"{geometry.schema}, {geometry.size}; prepare it for this preset"
        )


def _first_batch(
    job: Job, pairset: PairSet, volumes: tuple[int, ...], masks: PairSet | None
) -> PairBatch:
    g = job.geometry
    starts = None if job.start is None else (job.start,) * len(volumes)
    batch = PairBatch(volumes, job.seed, pairset.schema, g.spacing, g.size, starts)
    if masks is None:
        return batch
    ids = masks.ids()
    pairs = [masks.read(ids[v % len(ids)]) for v in volumes]
    image = torch.from_numpy(np.stack([pair.image for pair in pairs]))
    return replace(
        batch,
        label_VDHW=torch.from_numpy(np.stack([pair.label for pair in pairs])),
        image_VDHW=(2 * image - 1).clamp(-1, 1),
    )


def _pair(job: Job, batch: PairBatch, slot: int) -> Pair:
    if batch.label_VDHW is None or batch.image_VDHW is None:
        lacking = "masks" if batch.label_VDHW is None else "images"
        raise MedpairError(
            f"stages: they made no {lacking}; run all stages, or give --data with masks"
        )
    image = batch.image_VDHW[slot].numpy()
    return Pair(
        job.name(batch.volumes[slot]),
        np.clip((image + 1) / 2, 0, 1).astype(np.float32),
        batch.label_VDHW[slot].numpy(),
        ras_affine(batch.size, batch.spacing, batch.schema.slice_axis),
    )


def _record(job: Job, batch: PairBatch, slot: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": "generated",
        "seed": job.seed,
        "volume": batch.volumes[slot],
        "start": batch.start[slot] if batch.start else None,
        "intensity": {key: job.geometry.intensity[key] for key in ("lower", "upper")},
        "parameters": dict(settings),
        "versions": versions("medpair", "torch", "monai", "numpy"),
    }


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


def write_masks(stage: Stage, job: Job) -> list[Path]:
    """Generate masks without images into ``labels/<id>.nii.gz``; finished ones are kept.

    Args:
        stage: the mask stage.
        job: what is to be made.

    Returns:
        The mask files.
    """
    g, schema = job.geometry, load_schema(job.geometry.schema)
    paths = [job.out / "labels" / f"{job.name(v)}.nii.gz" for v in range(job.num)]
    affine = ras_affine(g.size, g.spacing, schema.slice_axis)
    with exclusive(job.out):
        missing = [v for v, path in enumerate(paths) if not path.exists()]
        for group in sorted({v // g.batch_volumes for v in missing}):
            volumes = tuple(range(group * g.batch_volumes, (group + 1) * g.batch_volumes))
            starts = None if job.start is None else (job.start,) * len(volumes)
            batch = stage(PairBatch(volumes, job.seed, schema, g.spacing, g.size, starts))
            if batch.label_VDHW is None:
                raise MedpairError("stage: it made no masks; give a mask stage")
            for volume in missing:
                if volume in volumes:
                    label = batch.label_VDHW[volume - volumes[0]].numpy()
                    write_volume(paths[volume], from_dhw(label, schema.slice_axis), affine)
    return paths
