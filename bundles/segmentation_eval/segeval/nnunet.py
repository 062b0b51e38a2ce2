"""nnU-Net itself on pair sets: export, plan, train, predict, and our own scores.

D, H, W volume size.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.nnunet import ENDING, Export, export_folders
from common.data.nnunet_cases import Case
from common.data.phantom import parse_phantom, write_phantom_set
from common.data.views import to_dhw
from common.errors import MedpairError
from common.io.atomic import write_json
from common.io.lock import exclusive
from common.io.manifest import sha256, versions
from common.io.nifti import read_volume
from segeval.nnunet_settings import keep_settings
from segeval.scores import Scores, score_masks, summarise

FORMAT = "medpair-nnunet-1"
WORKER = Path(__file__).with_name("nnunet_worker.py")
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True, kw_only=True)
class NnunetStudy:
    """Train nnU-Net on pair sets and score it on real scans that it did not see.

    Args:
        dataset_dir: pair set, or "phantom:..." (see `load_arrays`).
        output_dir: gets nnU-Net's three folders, the logs, ``predictions`` and ``nnunet.json``.
        add: further pair sets that train too.
        test_dir: pair set whose kept-back scans are judged; None for those of the sets above.
        copies: at most so many generated pairs per mask; None for all.
        folds: 1 trains on all and judges the kept-back scans; K >= 2 leaves out one of K parts of
            the real persons in training, for nnU-Net's own validation.
        fold: which one, 0..folds-1.
        configuration: "3d_fullres", "2d" or "3d_lowres".
        planner: nnU-Net's class that chooses the sizes.
        epochs: of ``iterations`` updates; nnU-Net's own number is 1000.
        iterations: updates per epoch; nnU-Net's own number is 250.
        val_iterations: batches of nnU-Net's validation per epoch; it chooses nothing here.
        seed: of weights and batches; binds only with ``workers`` 0.
        mirror: also predict mirror images and average, as nnU-Net does.
        device: "cpu" or "cuda".
        processes: for preprocessing.
        workers: processes that augment; 0 augments in the training process.
        tolerance: distance in mm up to which surfaces agree; None takes the longest voxel edge.
    """

    dataset_dir: str
    output_dir: str
    add: Sequence[str] = ()
    test_dir: str | None = None
    copies: int | None = None
    folds: int = 1
    fold: int = 0
    configuration: str = "3d_fullres"
    planner: str = "ExperimentPlanner"
    epochs: int = 1000
    iterations: int = 250
    val_iterations: int = 50
    seed: int = 0
    mirror: bool = True
    device: str | torch.device = "cpu"
    processes: int = 1
    workers: int = 0
    tolerance: float | None = None

    def __call__(self) -> dict[str, Any]:
        """Do what is not done yet and return the report, which is also ``nnunet.json``.

        Raises:
            MedpairError: for pair sets that do not fit (see `export_folders`), a folder of other
                settings, or a step of nnU-Net that fails.
        """
        out = Path(self.output_dir).absolute()
        with exclusive(out):
            export = self._export(out)
            if not 0 <= self.fold < self.folds:
                raise MedpairError(
                    f"fold: {self.fold}, wanted 0..{self.folds - 1}; choose one of the folds"
                )
            settings = self._settings(export)
            keep_settings(out / "settings.json", settings)
            job = self._job(export, out)
            self._run(job, export, out)
            report = {"format": FORMAT, "settings": settings, **self._report(export, job)}
            write_json(out / "nnunet.json", report)
        return report

    def _export(self, out: Path) -> Export:
        first = Path(self.dataset_dir)
        if self.dataset_dir.startswith("phantom:"):
            schema, size, count = parse_phantom(self.dataset_dir)
            held = max(1, count // 4)
            share = held / (count + held)
            first = out / "phantoms"
            write_phantom_set(first, schema, size, count + held, holdout=share)
        return export_folders(
            [first, *self.add],
            out / FOLDERS[0],
            test=self.test_dir,
            copies=self.copies,
            folds=self.folds,
        )

    def _settings(self, export: Export) -> dict[str, Any]:
        """What decides the result, whichever folder and device it is made in."""
        return {
            "export_sha256": sha256(export.folder / "medpair.json"),
            **{
                key: getattr(self, key)
                for key in (
                    "folds", "fold", "configuration", "planner", "epochs", "iterations",
                    "val_iterations", "seed", "mirror",
                )
            },
        }  # fmt: skip

    def _job(self, export: Export, out: Path) -> dict[str, Any]:
        judged = export.plan.judged(self.fold)
        own = ("configuration", "fold", "planner", "epochs", "iterations", "val_iterations")
        return {
            **{key: getattr(self, key) for key in (*own, "seed", "mirror", "processes")},
            "device": torch.device(self.device).type,
            "dataset": export.folder.name,
            "dataset_id": int(export.folder.name[7:10]),
            "folder": str(out),
            "results": str(out / FOLDERS[2]),
            "predictions": str(out / "predictions"),
            "images": {case.name: str(export.image(case)) for case in judged},
        }

    def _run(self, job: Mapping[str, Any], export: Export, out: Path) -> None:
        path = out / "job.json"
        write_json(path, job)
        environment = {name: str(out / name) for name in FOLDERS}
        done = {"plan": out / "plan.done", "train": out / "train.done"}
        for step in ("plan", "train", "predict"):
            if step == "predict" and all(_mask(job, name).is_file() for name in job["images"]):
                continue
            if step in done and done[step].is_file():
                continue
            if step == "train":
                splits = out / FOLDERS[1] / export.folder.name / "splits_final.json"
                shutil.copyfile(export.folder / "splits_final.json", splits)
            # the planner takes this number for torch's threads, of which there must be one
            workers = max(1, self.workers) if step == "plan" else self.workers
            variables = {**environment, "nnUNet_n_proc_DA": str(workers)}
            run_step(step, path, out / f"{step}.log", variables)
            if step in done:
                done[step].touch()

    def _report(self, export: Export, job: Mapping[str, Any]) -> dict[str, Any]:
        judged = export.plan.judged(self.fold)
        names = set(export.plan.splits[self.fold]["train"])
        trained = [case for case in export.plan.training if case.name in names]
        scores = {case.name: self._score(case, _mask(job, case.name)) for case in judged}
        return {
            "versions": versions("nnunetv2", "torch"),
            "n_training": len(trained),
            "n_training_real": sum(case.real for case in trained),
            "left_out": len(export.plan.left_out),
            "regions": export.regions,
            "n": len(judged),
            "n_persons": len(frozenset[str]().union(*(case.persons for case in judged))),
            **summarise(scores, judged[0].pairset.schema),
            "cases": {
                case.name: {"id": case.id, "persons": sorted(case.persons), **scores[case.name]}
                for case in judged
            },
        }

    def _score(self, case: Case, path: Path) -> dict[str, Scores]:
        schema, spacing = case.pairset.schema, case.pairset.spacing
        if spacing is None:
            raise MedpairError(
                f"{case.pairset.dir}: its spacing differs from pair to pair, wanted one for "
                "distances in mm; prepare it with --spacing"
            )
        predicted = to_dhw(read_volume(path).array, schema.slice_axis).astype(np.uint8)
        tolerance = self.tolerance or max(spacing)
        return score_masks(predicted, case.pairset.read(case.id).label, schema, spacing, tolerance)


def _mask(job: Mapping[str, Any], name: str) -> Path:
    return Path(job["predictions"]) / f"{name}{ENDING}"


def run_step(step: str, job: Path, log: Path, environment: Mapping[str, str]) -> None:
    """Run a step of `nnunet_worker` in a process of its own.

    Args:
        step: "plan", "train" or "predict".
        job: what the step reads.
        log: gets what nnU-Net prints.
        environment: further variables of that process, nnU-Net's folders among them.

    Raises:
        MedpairError: without nnU-Net, or if the step fails.
    """
    if importlib.util.find_spec("nnunetv2") is None:
        raise MedpairError(
            "nnU-Net: not installed, wanted the package nnunetv2; "
            "pip install -c constraints.txt 'medpair[nnunet]'"
        )
    # -P: modules beside the worker must not hide others of their names
    words = [sys.executable, "-P", str(WORKER), str(job), step]
    with log.open("ab") as file:
        done = subprocess.run(  # noqa: S603 - our own interpreter and file
            words, env={**os.environ, **environment}, stdout=file, stderr=file, check=False
        )
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        raise MedpairError(
            f"nnU-Net: step {step} ended with code {done.returncode} ({last[:200]}); see {log}"
        )
