"""What the weights that ship can do: on phantoms always, on held-back scans where there are any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from common.bundles import bundles_dir
from common.data.datasets import Arrays, load_arrays
from common.data.pairs import PairBatch
from common.metrics.fidelity import evaluate_images
from common.metrics.intensity import intensity_order
from vid2vid.stage import ImageStage

BUNDLE = bundles_dir() / "vid2vid_image"
SIZE = (48, 40, 40)

pytestmark = pytest.mark.skipif(
    not (BUNDLE / "models" / "model.pt").is_file(), reason="no weights in models/"
)


@pytest.fixture(scope="module")
def stage() -> ImageStage:
    opened = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.yaml"),
        workflow_type="infer",
        logging_file=False,
    )
    opened.initialize()
    found = opened.parser.get_parsed_content("stage")
    assert isinstance(found, ImageStage)
    return found


def images_of(stage: ImageStage, data: Arrays) -> list[np.ndarray]:
    """Generated images in [0, 1] for the masks of some pairs."""
    label = torch.from_numpy(np.stack(data.labels))
    spacing = data.spacing or (4.0, 4.0, 4.0)
    batch = PairBatch(
        volumes=tuple(range(len(data.ids))),
        seed=0,
        schema=data.schema,
        spacing=spacing,
        size=SIZE,
        label_VDHW=label,
    )
    image = stage(batch).image_VDHW
    assert image is not None
    return [(one + 1) / 2 for one in image.numpy()]


def test_phantoms_get_brain_intensities(stage: ImageStage) -> None:
    data = load_arrays("phantom:brain4:48x40x40:2", "training")
    for image, label in zip(images_of(stage, data), data.labels, strict=True):
        assert intensity_order(image, label, data.schema)["passed"] is True
        assert image[label == 0].mean() < 0.05


def test_held_back_scans_are_met(stage: ImageStage, kept_back_scans: Arrays) -> None:
    data = kept_back_scans
    images = images_of(stage, data)
    report = evaluate_images(images, data.images, data.labels, data.ids, data.schema)
    assert report["mean"]["3D"]["psnr"] > 27  # type: ignore[index]
    assert report["mean"]["3D"]["ms_ssim"] > 0.98  # type: ignore[index]
    for image, label in zip(images, data.labels, strict=True):
        assert intensity_order(image, label, data.schema)["passed"] is True
