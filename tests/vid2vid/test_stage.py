from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.data.labels import LabelSchema, load_schema
from common.data.pairs import PairBatch
from common.engines.weights import load_weights, save_weights
from common.errors import MedpairError
from vid2vid.generator import SliceGenerator
from vid2vid.inferers import VolumeInferer
from vid2vid.stage import ImageStage
from vid2vid.style import fit_styles

Make = Callable[..., SliceGenerator]


@pytest.fixture
def batch(schema: LabelSchema) -> PairBatch:
    label = torch.randint(6, (2, 7, 12, 8), generator=torch.Generator().manual_seed(0))
    return PairBatch(
        volumes=(4, 9),
        seed=1,
        schema=schema,
        spacing=(4.0, 4.0, 4.0),
        size=(7, 12, 8),
        label_VDHW=label.to(torch.uint8),
    )


def test_the_stage_adds_images(make_generator: Make, batch: PairBatch) -> None:
    done = ImageStage(make_generator(), "brain4")(batch)
    assert done.image_VDHW is not None
    assert done.image_VDHW.shape == (2, 7, 12, 8)
    assert done.image_VDHW.dtype == torch.float32
    assert done.image_VDHW.abs().max() <= 1
    assert done.label_VDHW is batch.label_VDHW


def test_styles_follow_seed_and_volume(make_generator: Make, batch: PairBatch) -> None:
    network = make_generator(style="medians")
    network.style_factor.copy_(torch.eye(6) * 0.3)
    stage = ImageStage(network, "brain4")
    base = stage(batch).image_VDHW
    assert base is not None
    assert torch.equal(base, stage(batch).image_VDHW)
    assert not torch.equal(base, stage(replace(batch, seed=2)).image_VDHW)
    half = stage(replace(batch, volumes=(5, 9))).image_VDHW
    assert not torch.equal(base[0], half[0])
    assert torch.equal(base[1], half[1])


def test_fitted_styles_have_the_training_mean_and_covariance() -> None:
    style = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) @ torch.randn(6, 6)
    mean, factor = fit_styles(style)
    assert torch.allclose(mean, style.mean(0), atol=1e-5)
    assert torch.allclose(factor.T @ factor, torch.cov(style.T), atol=1e-3)
    _, narrow = fit_styles(style[:3])
    assert narrow.shape == (6, 6)
    assert torch.allclose(narrow.T @ narrow, torch.cov(style[:3].T), atol=1e-3)


def test_a_wrong_batch_is_named(make_generator: Make, batch: PairBatch) -> None:
    stage = ImageStage(make_generator(), "brain4")
    with pytest.raises(MedpairError, match="no masks"):
        stage(replace(batch, label_VDHW=None))
    with pytest.raises(MedpairError, match="'thorax7', its weights are for 'brain4'"):
        stage(replace(batch, schema=load_schema("thorax7")))
    with pytest.raises(MedpairError, match="image_channels is 3; want 1"):
        ImageStage(make_generator(image_channels=3), "brain4")
    with pytest.raises(MedpairError, match="precision"):
        VolumeInferer(precision="int8")


def test_exported_weights_give_nearly_the_same_images(
    make_generator: Make, batch: PairBatch, tmp_path: Path
) -> None:
    trained = make_generator()
    save_weights(trained, tmp_path / "model.pt", {"schema": "brain4", "preset": "tiny"})
    fresh = make_generator()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    loaded = load_weights(fresh, tmp_path / "model.pt", schema="brain4", preset="tiny")
    images = [ImageStage(net, "brain4")(batch).image_VDHW for net in (trained, loaded)]
    assert torch.allclose(images[0], images[1], atol=0.02)
