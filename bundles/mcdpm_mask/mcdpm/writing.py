"""Masks without images: which of a job are missing, and where they are written.

D, H, W volume size.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.utils import CommonKeys

from common.data.labels import load_schema
from common.data.views import from_dhw, ras_affine
from common.io.lock import exclusive
from common.io.nifti import write_volume
from common.jobs import Job

NUMBER = "number"


class MaskRequests(torch.utils.data.Dataset[dict[str, Any]]):
    """The volumes of a job whose masks are not there yet, in whole batches.

    Items: "image", zeros (1, D, H, W) of the mask's size; "number" of the volume. Batches are
    always the same ones, so that a mask does not depend on which others are missing.

    Args:
        job: what is to be made.
        dataset_dir: folder with ``labels/<id>.nii.gz``.
    """

    def __init__(self, job: Job, dataset_dir: str) -> None:
        self.size, folder = job.geometry.size, Path(dataset_dir)
        missing = [v for v in range(job.num) if not mask_path(folder, job, v).exists()]
        per_batch = job.geometry.batch_volumes
        groups = sorted({v // per_batch for v in missing})
        self.volumes = [g * per_batch + i for g in groups for i in range(per_batch)]

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {CommonKeys.IMAGE: torch.zeros(1, *self.size), NUMBER: self.volumes[index]}


class MaskWriter:
    """Write what an evaluator made, and hold the folder meanwhile.

    Args:
        job: what is to be made; masks that are there are kept.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.held = job, ExitStack()
        g = job.geometry
        self.axis = load_schema(g.schema).slice_axis
        self.affine = ras_affine(g.size, g.spacing, self.axis)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._hold)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, lambda _: self.held.close())
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _hold(self, _: Engine) -> None:
        self.held.enter_context(exclusive(self.job.out))

    def _write(self, engine: Engine) -> None:
        numbers = [int(n) for n in engine.state.batch[NUMBER]]
        masks = engine.state.output[CommonKeys.PRED].cpu().numpy()
        for volume, mask in zip(numbers, masks, strict=True):
            path = mask_path(self.job.out, self.job, volume)
            if volume < self.job.num and not path.exists():
                write_volume(path, from_dhw(mask[0], self.axis), self.affine)

    def _fail(self, _: Engine, error: BaseException) -> None:
        self.held.close()
        raise error


def mask_path(folder: Path, job: Job, volume: int) -> Path:
    """Return the file of a volume's mask."""
    return folder / "labels" / f"{job.name(volume)}.nii.gz"


def run_missing(evaluator: Evaluator, requests: MaskRequests) -> None:
    """Run an evaluator over what is missing, if anything is."""
    if len(requests):
        evaluator.run()
