"""Shapes whose volume, surface and position are known in closed form."""

import numpy as np
import pytest

from common.data.labels import LabelSchema


@pytest.fixture(scope="session")
def schema() -> LabelSchema:
    """Two labels in a container; the left half of the left/right pair is id 1."""
    return LabelSchema.from_dict(
        {
            "name": "toy",
            "modality": "MR",
            "slice_axis": "SI",
            "intensity_order": ["dark", "bright"],
            "labels": [
                {"name": "dark", "id": 1, "colour": [1, 0, 0], "pair": "bright", "inside": "body"},
                {"name": "bright", "id": 2, "colour": [0, 1, 0], "pair": "dark", "inside": "body"},
                {"name": "body", "id": 3, "colour": [1, 1, 1]},
            ],
            "container": {"name": "body", "support": "nonzero"},
        }
    )


def box_map(dark: int = 4, bright: int = 3, shift: int = 0) -> np.ndarray:
    """A 16 x 12 x 12 body with a cube `dark` and a cube `bright` (sides in voxels) side by side."""
    label = np.zeros((20, 16, 18), np.uint8)
    label[2:18, 2:14, 3:15] = 3
    label[4 : 4 + dark, 4 + shift : 4 + shift + dark, 4 : 4 + dark] = 1
    label[4 : 4 + bright, 4 + shift : 4 + shift + bright, 4 + dark : 4 + dark + bright] = 2
    return label


def people(count: int, seed: int = 0) -> list[np.ndarray]:
    """Masks that differ as people do: sizes and positions drawn at random."""
    rng = np.random.default_rng(seed)
    return [
        box_map(int(d), int(b), int(s))
        for d, b, s in zip(
            rng.integers(3, 7, count),
            rng.integers(2, 5, count),
            rng.integers(0, 3, count),
            strict=True,
        )
    ]


@pytest.fixture
def make_map():
    return box_map


@pytest.fixture
def make_people():
    return people
