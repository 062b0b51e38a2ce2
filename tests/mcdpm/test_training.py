from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from common.data.datasets import Arrays, load_arrays
from common.data.labels import load_schema
from common.engines.batches import FixedBatches, IterationBatches
from common.errors import MedpairError
from mcdpm.batches import WindowBatches
from mcdpm.training import SamplePicture, training_volumes


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return load_arrays("phantom:brain4:16x24x20:2", "training")


def test_masks_come_at_the_networks_size_with_the_schemas_flips(arrays: Arrays) -> None:
    source = training_volumes(arrays, "brain4", (12, 10), copies=0, num_classes=6)
    assert [tuple(x.shape) for x in source.labels] == [(16, 12, 10)] * 2
    assert source.num_classes == 6
    assert source.flip_lut is not None
    assert source.flip_lut.tolist() == load_schema("brain4").flip_lut.tolist()
    assert training_volumes(arrays, "brain4", (12, 10), flip=False).flip_lut is None
    untouched = training_volumes(arrays, "brain4", (24, 20), copies=0)
    assert np.array_equal(untouched.labels[0].numpy(), arrays.labels[0])


@pytest.mark.parametrize(
    ("schema", "num_classes"), [("thorax7", None), ("brain4", 8), ("thorax7", 8)]
)
def test_data_of_another_schema_are_refused(
    arrays: Arrays, schema: str, num_classes: int | None
) -> None:
    with pytest.raises(MedpairError, match=r"schema 'brain4' with 6 classes, the config of .*set"):
        training_volumes(arrays, schema, (12, 10), num_classes=num_classes)


def test_an_empty_split_is_refused(arrays: Arrays) -> None:
    with pytest.raises(MedpairError, match="no pair in this split; prepare one with more persons"):
        training_volumes(Arrays((), [], [], arrays.schema), "brain4", (12, 10))


def test_validation_windows_are_the_same_every_time(arrays: Arrays) -> None:
    source = training_volumes(arrays, "brain4", (12, 10), copies=0, flip=False)
    windows = FixedBatches(WindowBatches(source, 6, 4), count=3)
    first, second = list(windows), list(windows)
    assert len(windows) == len(first) == 3
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)
    assert not torch.equal(first[0]["label"], first[1]["label"])


def test_the_picture_shows_the_sampled_masks(make: Any, tmp_path: Path) -> None:
    diffusion, schema = make.diffusion(), load_schema("brain4")
    mask = make.label(9)
    batches = IterationBatches(lambda g: {}, seed=0, epoch_length=1)
    batches.iteration = 1500
    picture = SamplePicture(
        make.oracle(mask, diffusion),
        make.sampler(diffusion),
        schema,
        depth=9,
        output_dir=str(tmp_path),
        batches=batches,
        count=2,
    )
    evaluator = Engine(lambda e, b: None)
    picture.attach(evaluator)
    evaluator.run([0])
    with Image.open(tmp_path / "samples" / "001500.png") as image:
        pixels = np.asarray(image)
    scale = round(120 / 9)
    first = pixels[: 8 * scale : scale, : 6 * scale : scale]
    assert np.array_equal(first, schema.palette[mask[1].numpy()[::-1].astype(int)])
    assert len(pixels) == 2 * (9 * scale + 2)  # a row per mask; the axial plane is 9 high
