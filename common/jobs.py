"""Generation jobs: which pairs are missing, made batch by batch, written one by one.

A stage is a callable from `PairBatch` to `PairBatch`. The output folder with its manifest is the
queue: a finished pair is never made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.datasets import Pair, PairSet
from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.pictures import contact_sheet
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
    """What one generation makes: pairs 0..num-1 of a seed."""

    out: Path
    num: int
    seed: int
    geometry: Geometry
    start: int | None = None

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
    """
    g = job.geometry
    settings = {
        **parameters,
        "seed": job.seed,
        "start": job.start,
        "batch_volumes": g.batch_volumes,
    }
    with exclusive(job.out):
        schema = load_schema(g.schema)
        pairset = PairSet.create(
            job.out, schema, g.spacing, g.size, dict(g.intensity), generated=settings
        )
        missing = [v for v in range(job.num) if job.name(v) not in pairset.ids()]
        groups = sorted({volume // g.batch_volumes for volume in missing})
        for index, group in enumerate(groups):
            first = group * g.batch_volumes
            volumes = tuple(range(first, first + g.batch_volumes))
            batch = _first_batch(job, pairset, volumes, masks)
            batch = _run_batch(stages, batch, pairset, progress or silent, index, len(groups))
            for slot, volume in enumerate(volumes):
                if volume in missing:
                    _write_pair(pairset, job, batch, slot, settings)
        if missing:
            contact_sheet(pairset, job.out / "contact_sheet.png")
    return pairset


def _first_batch(
    job: Job, pairset: PairSet, volumes: tuple[int, ...], masks: PairSet | None
) -> PairBatch:
    g = job.geometry
    starts = None if job.start is None else (job.start,) * len(volumes)
    batch = PairBatch(volumes, job.seed, pairset.schema, g.spacing, g.size, starts)
    if masks is None:
        return batch
    if masks.schema.name != g.schema or masks.size != g.size:
        raise MedpairError(
            f"{masks.dir}: schema {masks.schema.name}, size {masks.size}; wanted {g.schema}, "
            f"{g.size}; prepare it for this preset"
        )
    ids = masks.ids()
    pairs = [masks.read(ids[v % len(ids)]) for v in volumes]
    image = torch.from_numpy(np.stack([pair.image for pair in pairs]))
    return replace(
        batch,
        label_VDHW=torch.from_numpy(np.stack([pair.label for pair in pairs])),
        image_VDHW=(2 * image - 1).clamp(-1, 1),
    )


def _run_batch(
    stages: Mapping[str, Stage],
    batch: PairBatch,
    pairset: PairSet,
    progress: Progress,
    index: int,
    count: int,
) -> PairBatch:
    for name, stage in stages.items():
        progress(name, index, count)
        usage = Usage()
        batch = stage(batch)
        volumes = list(batch.volumes)
        pairset.log({"stage": name, "volumes": volumes, **usage.measured()})
        progress(name, index + 1, count)
    return batch


def _write_pair(
    pairset: PairSet, job: Job, batch: PairBatch, slot: int, settings: Mapping[str, Any]
) -> None:
    if batch.label_VDHW is None or batch.image_VDHW is None:
        lacking = "masks" if batch.label_VDHW is None else "images"
        raise MedpairError(
            f"stages: they made no {lacking}; run all stages, or give --data with masks"
        )
    image = batch.image_VDHW[slot].numpy()
    if not np.isfinite(image).all():
        raise MedpairError(
            f"pair {job.name(batch.volumes[slot])}: NaN in the image; check the weights"
        )
    pair = Pair(
        job.name(batch.volumes[slot]),
        np.clip((image + 1) / 2, 0, 1).astype(np.float32),
        batch.label_VDHW[slot].numpy(),
        ras_affine(batch.size, batch.spacing, batch.schema.slice_axis),
    )
    record = {
        "source": "generated",
        "seed": job.seed,
        "volume": batch.volumes[slot],
        "start": batch.start[slot] if batch.start else None,
        "intensity": {key: job.geometry.intensity[key] for key in ("lower", "upper")},
        "parameters": dict(settings),
        "versions": versions("medpair", "torch", "monai", "numpy"),
    }
    pairset.write(pair, record)


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
