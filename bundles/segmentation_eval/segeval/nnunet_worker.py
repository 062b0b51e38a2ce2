"""One step of nnU-Net in a process of its own: plan, train or predict.

`segeval.nnunet` starts this file; it imports nothing of ours, because nnU-Net starts processes that
import it again, and it leaves what nnU-Net prints to whoever started it.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

TRAINER = "nnUNetTrainer"
PLANS = "plans.txt"

Job = dict[str, Any]


def plan(job: Job) -> None:
    """Check the data set as nnU-Net does, choose sizes for it, and preprocess it."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    number = [job["dataset_id"]]
    api.extract_fingerprints(
        number, num_processes=job["processes"], check_dataset_integrity=True, verbose=False
    )
    plans = api.plan_experiments(number, job["planner"])
    api.preprocess(number, plans, [job["configuration"]], [job["processes"]])
    (Path(job["folder"]) / PLANS).write_text(plans, encoding="utf-8")


def train(job: Job) -> None:
    """Train with nnU-Net's trainer, from its newest checkpoint where there is one."""
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    random.seed(job["seed"])
    np.random.seed(job["seed"])  # noqa: NPY002 - nnU-Net draws from the global state
    torch.manual_seed(job["seed"])
    goes_on = any(_fold(job).glob("checkpoint_*.pth"))
    trainer = get_trainer_from_args(
        str(job["dataset_id"]),
        job["configuration"],
        job["fold"],
        TRAINER,
        _plans(job),
        goes_on,
        torch.device(job["device"]),
    )
    trainer.num_epochs = job["epochs"]
    trainer.num_iterations_per_epoch = job["iterations"]
    trainer.num_val_iterations_per_epoch = job["val_iterations"]
    maybe_load_checkpoint(trainer, goes_on, False)
    trainer.run_training()


def predict(job: Job) -> None:
    """Segment the judged images with the weights of the last epoch."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=job["mirror"], device=torch.device(job["device"]), allow_tqdm=False
    )
    folder = _fold(job)
    predictor.initialize_from_trained_model_folder(str(folder.parent), (job["fold"],))
    masks = Path(job["predictions"])
    masks.mkdir(parents=True, exist_ok=True)
    images = [[image] for image in job["images"].values()]
    targets = [str(masks / name) for name in job["images"]]
    predictor.predict_from_files_sequential(images, targets)


def _plans(job: Job) -> str:
    return (Path(job["folder"]) / PLANS).read_text(encoding="utf-8")


def _fold(job: Job) -> Path:
    model = f"{TRAINER}__{_plans(job)}__{job['configuration']}"
    return Path(job["results"], job["dataset"], model, f"fold_{job['fold']}")


if __name__ == "__main__":
    {"plan": plan, "train": train, "predict": predict}[sys.argv[2]](
        json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    )
