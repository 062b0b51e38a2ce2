"""What the weights that ship can do on held-back scans, where there are any."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from common.bundles import bundles_dir
from common.data.datasets import load_arrays
from common.data.prepare import prepare
from segeval.scores import score_masks, summarise

BUNDLE = bundles_dir() / "segmentation_eval"
MOST_BYTES = 4_000_000


def test_the_weights_are_small() -> None:
    assert (BUNDLE / "models" / "model.pt").stat().st_size < MOST_BYTES


def test_held_back_scans_are_segmented(tmp_path: Path) -> None:
    root = os.environ.get("MEDPAIR_DATA")
    if not root:
        pytest.skip("MEDPAIR_DATA is not set: no real scans")
    source = Path(root) / "brain_oasis"
    if not source.is_dir():
        pytest.skip("MEDPAIR_DATA holds no brain_oasis")
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("1004", "1019"):  # kept back from the training
        for kind in ("T1", "labels"):
            shutil.copy(source / f"{name}_{kind}.nii.gz", scans)
    options = {"spacing": 4.0, "size": (48, 40, 40), "crop": "nonzero"}
    prepare(scans, scans, "brain4", tmp_path / "pairs", source="neuromorphometrics", **options)  # type: ignore[arg-type]
    data = load_arrays(tmp_path / "pairs", None)
    opened = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.yaml"),
        workflow_type="infer",
        logging_file=False,
    )
    opened.initialize()
    segment = opened.parser.get_parsed_content("segment")
    masks = segment(torch.from_numpy(np.stack(data.images)) * 2 - 1).numpy()
    cases = {
        name: score_masks(mask, label, data.schema, data.spacing, None)
        for name, mask, label in zip(data.ids, masks, data.labels, strict=True)
    }
    report = summarise(cases, data.schema)
    assert report["mean"]["dice"] > 0.89
    assert report["labels"]["cortex"]["dice"] > 0.93
    assert report["labels"]["subcortical_gm"]["dice"] > 0.84
