"""Small networks and data for the tests of the refiner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from common.data.datasets import Arrays
from common.data.labels import LabelSchema, load_schema
from common.diffusion.schedules import build_schedule
from sdm.diffusion import SliceDiffusion
from sdm.views import ViewDenoisers


@pytest.fixture(scope="session")
def schema() -> LabelSchema:
    return load_schema("brain4")


@pytest.fixture(scope="session")
def diffusion() -> SliceDiffusion:
    return SliceDiffusion(build_schedule("linear", 1000), "v")


@pytest.fixture(scope="session")
def make_network() -> Callable[..., ViewDenoisers]:
    """Small denoisers whose residual branches do something (untrained ones start at zero)."""

    def make(**changes: Any) -> ViewDenoisers:
        options = {"channels": (8, 16), "embedding": 8, "mask_hidden": 8, "unshuffle": 2} | changes
        torch.manual_seed(0)
        network = ViewDenoisers(6, **options)
        with torch.no_grad():
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
        return network.eval()

    return make


@pytest.fixture(scope="session")
def make_arrays(schema: LabelSchema) -> Callable[..., Arrays]:
    """Volumes of random labels; the image is a function of the label and of the place."""

    def make(count: int = 2, size: tuple[int, ...] = (8, 12, 16)) -> Arrays:
        rng = np.random.default_rng(0)
        labels = [rng.integers(0, schema.num_classes, size, dtype=np.uint8) for _ in range(count)]
        place = np.arange(np.prod(size)).reshape(size) / (2 * np.prod(size))
        images = [(label / 12 + place).astype(np.float32) for label in labels]
        return Arrays(tuple(f"{n:03d}" for n in range(count)), images, labels, schema, (4.0,) * 3)

    return make
