"""Small networks and scans for the tests of the segmentation bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from common.data.datasets import Arrays
from common.data.labels import LabelSchema, load_schema


@pytest.fixture(scope="session")
def schema() -> LabelSchema:
    return load_schema("brain4")


@pytest.fixture(scope="session")
def make_arrays(schema: LabelSchema) -> Callable[..., Arrays]:
    """Volumes of random labels, whose images tell the label of every voxel."""

    def make(*sizes: tuple[int, int, int], spacing: Any = (4.0, 4.0, 4.0)) -> Arrays:
        rng = np.random.default_rng(0)
        labels = [rng.integers(0, 6, size, dtype=np.uint8) for size in sizes]
        images = [label.astype(np.float32) / 5 for label in labels]
        ids = tuple(f"{n:03d}" for n in range(len(sizes)))
        return Arrays(ids, images, labels, schema, spacing)

    return make


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """A small U-Net with strides 1 and 2 and 2; feature channels 2, 4, 6, 8."""
    torch.manual_seed(0)
    norm = ("group", {"num_groups": 2})
    return UNet(3, 1, 6, (2, 4, 6, 8), (1, 2, 2), num_res_units=1, norm=norm).eval()
