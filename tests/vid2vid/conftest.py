"""Small networks and data for the tests of the image stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from common.data.datasets import Arrays
from common.data.labels import LabelSchema, load_schema
from vid2vid.generator import SliceGenerator
from vid2vid.sequences import SequenceDataset


@pytest.fixture(scope="session")
def schema() -> LabelSchema:
    return load_schema("brain4")


@pytest.fixture(scope="session")
def make_generator(schema: LabelSchema) -> Callable[..., SliceGenerator]:
    """Small generators whose residual branches do something (untrained ones start at zero)."""

    def make(**changes: Any) -> SliceGenerator:
        options = {"channels": (8, 16), "embedding": 8, "max_flow": 2.0} | changes
        torch.manual_seed(0)
        network = SliceGenerator(schema.num_classes, **options)
        with torch.no_grad():
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.05)
        return network.eval()

    return make


@pytest.fixture(scope="session")
def make_arrays(schema: LabelSchema) -> Callable[..., Arrays]:
    """Volumes of random labels; their image tells label, row and slice of every voxel."""

    def make(count: int = 2, size: tuple[int, ...] = (10, 12, 8), channels: int = 0) -> Arrays:
        rng = np.random.default_rng(0)
        labels = [rng.integers(0, schema.num_classes, size, dtype=np.uint8) for _ in range(count)]
        ramp = np.arange(size[0])[:, None, None] / 100 + np.arange(size[1])[None, :, None] / 50
        images = [(label / 10 + ramp).astype(np.float32) for label in labels]
        if channels:
            images = [np.stack([x * (c + 1) / channels for c in range(channels)]) for x in images]
        ids = tuple(f"{n:03d}" for n in range(count))
        return Arrays(ids, images, labels, schema, (4.0, 4.0, 4.0))

    return make


@pytest.fixture(scope="session")
def make_dataset(make_arrays: Callable[..., Arrays]) -> Callable[..., SequenceDataset]:
    def make(data: Arrays | None = None, **changes: Any) -> SequenceDataset:
        options = {"lengths": [(0, 4)], "slices_per_batch": 8} | changes
        return SequenceDataset(data or make_arrays(), **options)

    return make
