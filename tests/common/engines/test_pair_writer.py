"""Generated images as a pair set: values, affines, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from common.data.datasets import Arrays, Pair, PairSet, load_arrays
from common.engines.pair_writer import PairWriter
from common.errors import MedpairError

PHANTOMS = "phantom:brain4:20x18x16:2"


@pytest.fixture
def data() -> Arrays:
    return load_arrays(PHANTOMS, "training")


def write(data: Arrays, source: str, folder: Path, channels: int = 1) -> PairSet:
    def step(_: Engine, batch: dict[str, list[str]]) -> dict[str, torch.Tensor]:
        rows = [data.ids.index(name) for name in batch["id"]]
        image = torch.stack([torch.from_numpy(data.images[i])[None] for i in rows]).clamp(0, 1)
        label = torch.stack([torch.from_numpy(data.labels[i])[None] for i in rows])
        return {"pred": (2 * image - 1).repeat(1, channels, 1, 1, 1), "image": label}

    engine = Engine(step)
    PairWriter(data, source, str(folder), "some_bundle").attach(engine)
    engine.run([{"id": list(data.ids)}])
    return PairSet.open(folder)


def test_images_stand_beside_their_masks_in_0_to_1(data, tmp_path) -> None:
    made = write(data, PHANTOMS, tmp_path / "made")
    assert made.ids("validation") == data.ids
    assert made.header["generated_by"] == "some_bundle"
    for index, name in enumerate(data.ids):
        pair = made.read(name)
        np.testing.assert_array_equal(pair.label, data.labels[index])
        np.testing.assert_allclose(pair.image, data.images[index].clip(0, 1), atol=1e-6)
        voxel = np.abs(np.diag(pair.affine)[:3])
        np.testing.assert_allclose(np.sort(voxel), np.sort(data.spacing))


def test_the_affine_is_that_of_the_real_scan(data, tmp_path) -> None:
    affine = np.array([[0, 2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3.0, 1], [0, 0, 0, 1]])
    source = PairSet.create(tmp_path / "real", data.schema, data.spacing, None, {"method": "none"})
    for name, image, label in zip(data.ids, data.images, data.labels, strict=True):
        source.write(Pair(name, image, label, affine))
    made = write(data, str(source.dir), tmp_path / "made")
    np.testing.assert_allclose(made.read(data.ids[0]).affine, source.read(data.ids[0]).affine)
    assert made.intensity == {"method": "none"}


def test_images_of_several_channels_are_refused(data, tmp_path) -> None:
    with pytest.raises(MedpairError, match="image_channels is 2; want 1"):
        write(data, PHANTOMS, tmp_path / "made", channels=2)
