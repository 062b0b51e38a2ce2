"""Masks alone, as the bundle's own inference writes them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import PrepareBatchExtraInput, SupervisedEvaluator
from monai.inferers import Inferer
from torch import Tensor, nn

from common.errors import MedpairError
from common.io.lock import exclusive
from common.jobs import Job, stage_job
from mcdpm.writing import MaskRequests, MaskWriter, run_missing

SIZE = (6, 8, 8)


class Numbers(Inferer):
    """Masks that say which volume they are."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def __call__(self, inputs: Tensor, network: nn.Module, number: Tensor) -> Tensor:
        self.seen.append(number.tolist())
        if 99 in self.seen[-1]:
            raise MedpairError("this one fails")
        return (inputs + 1 + number.view(-1, 1, 1, 1, 1)).to(torch.uint8)


def job(out: Path, num: int = 3) -> Job:
    return stage_job(out, num, 7, "brain4", SIZE, (4.0, 4.0, 4.0), batch_volumes=2)


def generate(made: Job, inferer: Numbers) -> None:
    requests = MaskRequests(made, str(made.out))
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(requests, batch_size=2),
        network=nn.Identity(),
        inferer=inferer,
        prepare_batch=PrepareBatchExtraInput(extra_keys="number"),
        decollate=False,
        val_handlers=[MaskWriter(made)],
    )
    run_missing(evaluator, requests)


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.gz")}


def test_masks_are_written_once_per_volume(tmp_path: Path) -> None:
    inferer = Numbers()
    generate(job(tmp_path), inferer)
    names = [f"s7_0000{number}.nii.gz" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == names
    assert inferer.seen == [[0, 1], [2, 3]]  # whole batches
    for number, name in enumerate(names):
        mask = nib.load(tmp_path / "labels" / name)
        assert np.unique(np.asanyarray(mask.dataobj)).tolist() == [number + 1]
        assert mask.header.get_zooms() == (4.0, 4.0, 4.0)
    before = hashes(tmp_path)
    generate(job(tmp_path), inferer)
    assert len(inferer.seen) == 2
    assert hashes(tmp_path) == before


def test_a_missing_mask_is_made_again_alone(tmp_path: Path) -> None:
    generate(job(tmp_path), Numbers())
    before = hashes(tmp_path)
    (tmp_path / "labels" / "s7_00002.nii.gz").unlink()
    inferer = Numbers()
    generate(job(tmp_path), inferer)
    assert inferer.seen == [[2, 3]]
    assert hashes(tmp_path) == before


def test_a_folder_in_use_is_refused_and_let_go_after_a_failure(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(MedpairError, match="another run"):
        generate(job(tmp_path), Numbers())
    with pytest.raises(MedpairError, match="this one fails"):
        generate(job(tmp_path, 100), Numbers())
    assert len(list(tmp_path.rglob("*.gz"))) == 98
    generate(job(tmp_path), Numbers())


def test_requests_hold_nothing_but_the_size(tmp_path: Path) -> None:
    item: dict[str, Any] = MaskRequests(job(tmp_path), str(tmp_path))[1]
    assert torch.equal(item["image"], torch.zeros(1, *SIZE))
    assert item["number"] == 1
