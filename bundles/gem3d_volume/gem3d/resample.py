"""New images for the masks of a pair set, written pair by pair; finished pairs are kept.

V volumes, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.data.datasets import Pair, PairSet
from common.data.pictures import contact_sheet
from common.data.sidesets import removed
from common.errors import MedpairError
from common.io.lock import exclusive
from common.io.manifest import sha256, versions
from common.io.usage import Usage
from common.progress import Progress, silent
from gem3d.generate import Context, InformedSlice
from gem3d.informed import Choice
from gem3d.scans import ScanSet, SourceScan

LabelMap = npt.NDArray[np.uint8]


class Generator(Protocol):
    """Makes images for masks; `gem3d.generate.VolumeGenerator` is one."""

    def __call__(
        self,
        label_VDHW: Tensor,
        informed: Sequence[InformedSlice],
        *,
        volumes: Sequence[int],
        seed: int,
        context: Context | None = None,
    ) -> Tensor:
        """Return images (V, D, H, W) in [-1, 1]."""

    def joints(self, depth: int, start: int) -> tuple[int, ...]:
        """Return the slices where later windows begin in a volume."""


@dataclass(frozen=True)
class Target:
    """A mask and the informed slice of its new image; ``record`` goes to the manifest."""

    label: LabelMap
    choice: Choice
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """A pair to be made.

    Attributes:
        id: the new pair's id.
        volume: number that keys its noise.
        scan: whose mask it starts from.
        group: only tasks of one group share a batch, so that a run with more rounds does not
            change the batches of an earlier one.
        prepare: makes the mask and chooses the informed slice.
    """

    id: str
    volume: int
    scan: SourceScan
    group: Hashable
    prepare: Callable[[], Target]


def create_set(
    out: str | Path, scans: ScanSet, weights: str | Path, settings: Mapping[str, Any]
) -> PairSet:
    """Make the pair set of a use, or continue one that was begun with the same settings.

    Args:
        out: its folder.
        scans: what it is made from.
        weights: the weight file, whose hash belongs to the settings.
        settings: what decides the bytes of every pair.
    """
    identity = {"bundle": "gem3d_volume", "weights_sha256": sha256(weights)}
    return PairSet.create(
        out,
        scans.schema,
        scans.spacing,
        scans.size,
        scans.intensity,
        generated={**identity, **settings},
    )


def write_missing(
    generate: Generator,
    tasks: Sequence[Task],
    open_set: Callable[[], PairSet],
    *,
    out: str | Path,
    seed: int,
    batch_volumes: int,
    progress: Progress | None = None,
) -> tuple[PairSet, int]:
    """Make the pairs that a set does not hold yet, batch by batch, and the contact sheet.

    Args:
        generate: makes the images.
        tasks: all pairs of the set.
        open_set: makes or continues the pair set.
        out: its folder, held against other runs meanwhile.
        seed: the run's seed.
        batch_volumes: volumes per call of ``generate``; the last batch of a group is filled up,
            so that bytes do not depend on the number of pairs.
        progress: called with ("volumes", finished, all).

    Returns:
        The pair set and the number of new pairs.

    Raises:
        MedpairError: if an image holds NaN, or the folder is in use.
    """
    if batch_volumes < 1:
        raise MedpairError(f"batch_volumes: {batch_volumes}, wanted >= 1; correct it")
    report = progress or silent
    with exclusive(Path(out)):
        pairset = open_set()
        missing = {task.id for task in tasks} - {*pairset.ids(), *removed(out)}
        made, new = len(tasks) - len(missing), len(missing)
        report("volumes", made, len(tasks))
        for batch in _batches(tasks, batch_volumes):
            if missing.isdisjoint(task.id for task in batch):
                continue
            usage = Usage()
            written = _write_batch(generate, batch, pairset, missing, seed, batch_volumes)
            pairset.log({"stage": "volume", "pairs": written, **usage.measured()})
            made += len(written)
            report("volumes", made, len(tasks))
        if new:
            contact_sheet(pairset, Path(out) / "contact_sheet.png")
    return pairset, new


def _batches(tasks: Sequence[Task], size: int) -> list[list[Task]]:
    groups: dict[Hashable, list[Task]] = {}
    for task in tasks:
        groups.setdefault((task.group, task.scan.label.shape), []).append(task)
    return [g[i : i + size] for g in groups.values() for i in range(0, len(g), size)]


def _write_batch(
    generate: Generator,
    batch: Sequence[Task],
    pairset: PairSet,
    missing: set[str],
    seed: int,
    size: int,
) -> list[str]:
    targets = [task.prepare() for task in batch]
    filled = [k % len(batch) for k in range(size)]
    images = generate(
        torch.from_numpy(np.stack([targets[k].label for k in filled])),
        [targets[k].choice.informed for k in filled],
        volumes=[batch[k].volume for k in filled],
        seed=seed,
    )
    written = []
    for task, target, image in zip(batch, targets, images, strict=False):
        if task.id in missing:
            joints = generate.joints(len(target.label), target.choice.informed.index)
            _write(pairset, task, target, image, {"seed": seed, "joints": list(joints)})
            written.append(task.id)
    return written


def _write(
    pairset: PairSet, task: Task, target: Target, image_DHW: Tensor, made: Mapping[str, Any]
) -> None:
    image = ((image_DHW.float().cpu().numpy() + 1) / 2).clip(0, 1).astype(np.float32)
    if not np.isfinite(image).all():
        raise MedpairError(f"pair {task.id}: NaN in the image; check the weights")
    record = {
        "split": task.scan.split,
        "person": task.scan.person,
        "source": {"mask": task.scan.id, "person": task.scan.person},
        **made,
        "volume": task.volume,
        "informed": target.choice.record,
        **target.record,
        "versions": versions("medpair", "torch", "monai", "numpy"),
    }
    pairset.write(Pair(task.id, image, target.label, task.scan.affine), record)


def mismatch(pairset: PairSet) -> dict[str, Any]:
    """Summarise how well the bodies of informed slices fit the masks of a written set.

    Returns:
        ``ratio``: least, median and largest area ratio; ``within_tolerance``: their share;
        ``outside``: ids of the pairs whose informed slice does not fit.
    """
    found = {name: pairset.record(name)["informed"] for name in pairset.ids()}
    ratios = [c["area_ratio"] for c in found.values() if c["area_ratio"] is not None]
    low, middle, high = np.percentile(ratios, (0, 50, 100)) if ratios else (0.0, 0.0, 0.0)
    outside = [name for name, choice in found.items() if not choice["within_tolerance"]]
    return {
        "ratio": {"min": float(low), "median": float(middle), "max": float(high)},
        "within_tolerance": 1 - len(outside) / max(len(found), 1),
        "outside": outside,
    }
