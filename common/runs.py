"""Generation jobs: which pairs are missing, made batch by batch, written one by one.

A stage is a callable from `PairBatch` to `PairBatch`. The output folder with its manifest is the
queue: a finished pair is never made again. A stage may find faults; such a pair is made again with
other noise, in a batch of the same volumes, so that bytes do not depend on what was finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from common.attempts import Attempts, attempt_seed
from common.data.datasets import Pair, PairSet
from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.pictures import contact_sheet
from common.data.provenance import Provenance, for_mask_of, provenance_of
from common.data.sidesets import removed
from common.data.views import ras_affine
from common.errors import MedpairError
from common.halving import run_halving
from common.io.lock import brief, exclusive, shared
from common.io.manifest import versions
from common.io.usage import Usage
from common.jobs import Geometry, Job, Part, Stage
from common.progress import Progress, silent


@dataclass(frozen=True)
class Task:
    """A batch to be made.

    Args:
        batch: what goes into the first stage.
        due: which of its volumes are wanted.
        attempt: 0 for the first.
    """

    batch: PairBatch
    due: tuple[int, ...]
    attempt: int


Logs = list[dict[str, Any]]
HALVED = "halved_to"
"""Where memory ran out: volumes of the smallest batch that a stage ran, in log and manifest."""
Engine = Callable[["Run", Sequence[int]], None]
"""Makes all pairs of some groups of volumes: asks a `Run` for tasks, gives back what was made."""


def run_stages(
    stages: Mapping[str, Stage],
    job: Job,
    parameters: Mapping[str, Any],
    masks: PairSet | None = None,
    progress: Progress | None = None,
    part: Part | None = None,
    engine: Engine | None = None,
) -> PairSet:
    """Make the missing pairs of a job, batch by batch, and the contact sheet.

    Args:
        stages: callables by name, in order.
        job: what is to be made.
        parameters: what decides the bytes besides the job; goes to `dataset.json`.
        masks: pair set whose masks and images start the batches, in the order of its ids.
        progress: called with (stage, finished volumes, volumes).
        part: make only the batches of one part; others may write in the folder meanwhile.
        engine: makes the batches; None makes them here, one after the other.

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
    alone = part is None or part.of == 1
    part = part or Part()
    lock = exclusive(job.out) if alone else shared(job.out, f"part-{part.index}-of-{part.of}")
    with lock:
        schema = load_schema(g.schema)
        pairset = PairSet.create(
            job.out, schema, g.spacing, g.size, dict(g.intensity), generated=settings
        )
        run = Run(stages, job, settings, pairset, masks, progress or silent, part)
        groups = run.groups()
        (engine or run_here)(run, groups)
        pairset.refresh()
        if groups and pairset.ids():
            with brief(job.out / "images"):  # the part that ends last draws the whole
                pairset.manifest.reload()  # what others ended while this one waited
                contact_sheet(pairset, job.out / "contact_sheet.png")
        run.attempts.check([n for v, n in enumerate(job.names()) if run.is_mine(v)])
    return pairset


def run_here(run: Run, groups: Sequence[int]) -> None:
    """Make groups of volumes one after the other in this process."""
    fitted: dict[str, int] = {}
    for index, group in enumerate(groups):
        while (task := run.task(group)) is not None:
            again = f", attempt {task.attempt + 1}" if task.attempt else ""

            def tell(stage: str, done: int, index: int = index, again: str = again) -> None:
                run.progress(stage + again, index + done, len(groups))

            made = through(run.stages, task.batch, tell, exact=run.exact, fitted=fitted)
            run.keep(task, *made)


def through(
    stages: Mapping[str, Stage],
    batch: PairBatch,
    tell: Callable[[str, int], None],
    *,
    exact: bool = False,
    fitted: dict[str, int] | None = None,
) -> tuple[PairBatch, Logs]:
    """Run a batch through stages.

    Args:
        stages: callables by name, in order.
        batch: what goes into the first.
        tell: called with the stage's name and 0 before, 1 after it.
        exact: never run halves of a batch that does not fit into memory.
        fitted: see `run_halving`.

    Returns:
        The finished batch, and seconds and memory per stage.
    """
    logs: Logs = []
    for name, stage in stages.items():
        tell(name, 0)
        usage = Usage()
        batch, smallest = run_halving(name, stage, batch, exact=exact, fitted=fitted)
        line = {"stage": name, "volumes": list(batch.volumes), **usage.measured()}
        logs.append(line | ({HALVED: smallest} if smallest < len(batch.volumes) else {}))
        tell(name, 1)
    return batch, logs


class Run:
    """What a job still lacks: gives out tasks, and takes and writes what was made.

    Args:
        stages: callables by name, in order.
        job: what is to be made.
        settings: go into each pair's record.
        pairset: where pairs go.
        masks: pair set that starts the batches.
        progress: called with (task, done, total).
        part: which batches are ours.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        job: Job,
        settings: Mapping[str, Any],
        pairset: PairSet,
        masks: PairSet | None,
        progress: Progress,
        part: Part,
    ) -> None:
        self.stages, self.job, self.settings = stages, job, settings
        self.pairset, self.masks, self.progress, self.part = pairset, masks, progress, part
        self.attempts = Attempts(pairset, job.retries)
        self.removed = removed(pairset.dir)

    def is_mine(self, volume: int) -> bool:
        """Return whether a volume is in a batch of this part."""
        return self.part.takes(volume // self.job.geometry.batch_volumes)

    def groups(self) -> list[int]:
        """Return the groups of volumes, which share all batches, that lack pairs."""
        size = self.job.geometry.batch_volumes
        return sorted({volume // size for volume in self._missing(range(self.job.num))})

    def task(self, group: int) -> Task | None:
        """Return what is to be made next for a group; None where nothing is."""
        size = self.job.geometry.batch_volumes
        volumes = tuple(range(group * size, (group + 1) * size))
        tried = {
            v: self.attempts.refused(self.job.name(v))
            for v in self._missing([v for v in volumes if v < self.job.num])
        }
        if not tried:
            return None
        attempt = min(tried.values())
        batch = _first_batch(self.job, self.pairset, volumes, self.masks)
        batch = replace(batch, seed=attempt_seed(self.job.seed, attempt))
        return Task(batch, tuple(v for v, n in tried.items() if n == attempt), attempt)

    def keep(self, task: Task, batch: PairBatch, logs: Logs) -> None:
        """Write what was made of a task, among the refused pairs where it has faults."""
        again = {"attempt": task.attempt} if task.attempt else {}
        for line in logs:
            self.pairset.log(line | again)
        halved = {line["stage"]: line[HALVED] for line in logs if HALVED in line}
        for slot, volume in enumerate(batch.volumes):
            if volume in task.due:
                self._keep(batch, slot, task.attempt, halved)

    def _missing(self, volumes: Iterable[int]) -> list[int]:
        """Return those of the volumes that are ours and can still become pairs."""
        names = {volume: self.job.name(volume) for volume in volumes if self.is_mine(volume)}
        done = {*self.pairset.ids(), *self.removed}
        return [v for v, n in names.items() if n not in done and not self.attempts.spent(n)]

    @property
    def exact(self) -> bool:
        """Whether batches must keep their size; see `common.running.Running`."""
        return bool(self.settings.get("exact"))

    def _keep(self, batch: PairBatch, slot: int, attempt: int, halved: Mapping[str, int]) -> None:
        """Write a pair into the pair set, or among the refused ones."""
        pair = _pair(self.job, batch, slot)
        faults = None if batch.faults is None else batch.faults[slot]
        gate: Any = f"not run: {self.job.ungated}"
        if faults is not None:
            gate = {"passed": not faults, "attempts": attempt + 1}
        record = _record(self.job, batch, slot, self.settings) | {"gate": gate}
        if self.masks is not None:
            record["provenance"] = self._provenance(record, volume=batch.volumes[slot]).to_dict()
        if attempt:
            record["noise_seed"] = batch.seed
        if halved:
            record[HALVED] = dict(halved)
        if faults:
            self.attempts.refuse(pair, attempt, faults, record)
            return
        if batch.image_VDHW is None or not torch.isfinite(batch.image_VDHW[slot]).all():
            raise MedpairError(f"pair {pair.id}: NaN in the image; check the weights")
        self.pairset.write(pair, record)

    def _provenance(self, record: Mapping[str, Any], volume: int) -> Provenance:
        """Return where a pair comes from whose mask was given: the mask's own origin counts."""
        assert self.masks is not None
        found = provenance_of(self.pairset.header, record)
        known = self.masks.record(_mask_of(self.masks, volume))
        return for_mask_of(found, self.masks.header, known)


def _mask_of(masks: PairSet, volume: int) -> str:
    """Return the id of the pair whose mask starts a volume."""
    ids = masks.ids()
    return ids[volume % len(ids)]


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
    pairs = [masks.read(_mask_of(masks, v)) for v in volumes]
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
        **({"joints": list(batch.joints[slot])} if batch.joints else {}),
        "intensity": {key: job.geometry.intensity[key] for key in ("lower", "upper")},
        "parameters": dict(settings),
        "versions": versions("medpair", "torch", "monai", "numpy"),
    }
