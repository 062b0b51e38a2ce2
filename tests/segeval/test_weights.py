"""What the weights that ship can do on held-back scans, where there are any."""

from __future__ import annotations

import numpy as np
import torch
from monai.bundle import ConfigWorkflow

from common.bundles import bundles_dir
from common.data.datasets import Arrays
from segeval.scores import score_masks, summarise

BUNDLE = bundles_dir() / "segmentation_eval"
MOST_BYTES = 4_000_000


def test_the_weights_are_small() -> None:
    assert (BUNDLE / "models" / "model.pt").stat().st_size < MOST_BYTES


def test_held_back_scans_are_segmented(kept_back_scans: Arrays) -> None:
    data = kept_back_scans
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
