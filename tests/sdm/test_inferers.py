from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from common.data.labels import LabelSchema, load_schema
from common.data.pairs import PairBatch
from common.errors import MedpairError
from sdm.diffusion import SliceDiffusion
from sdm.inferers import StudyRefiner, VolumeRefiner
from sdm.refine import Refinement
from sdm.stage import RefineStage
from sdm.views import ViewDenoisers

Make = Callable[..., ViewDenoisers]

ODD = (7, 10, 13)


def volumes(size: tuple[int, int, int] = ODD) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 6, (2, 1, *size), generator=generator).to(torch.uint8)
    return label, torch.rand(2, 1, *size, generator=generator) * 2 - 1


@pytest.mark.parametrize("mode", ["mean", "joint"])
def test_sizes_that_the_stride_does_not_divide_are_padded_and_cropped(
    make_network: Make, diffusion: SliceDiffusion, mode: str
) -> None:
    network = make_network()
    label, image = volumes()
    refiner = VolumeRefiner(Refinement(diffusion, 20, 2, mode), "AP", seed=3)
    found = refiner(label, network, image)
    assert found.shape == image.shape
    # the same as padding by hand
    whole_label = torch.zeros(2, 1, 8, 12, 16, dtype=torch.uint8)
    whole_image = torch.full((2, 1, 8, 12, 16), -1.0)
    whole_label[..., :7, :10, :13], whole_image[..., :7, :10, :13] = label, image
    assert torch.equal(found, refiner(whole_label, network, whole_image)[..., :7, :10, :13])


def test_results_stay_in_the_range_of_images(make_network: Make, diffusion: SliceDiffusion) -> None:
    label, image = volumes()
    found = VolumeRefiner(Refinement(diffusion, 900, 3, "joint"), "SI")(
        label, make_network(), image
    )
    assert found.dtype == torch.float32
    assert float(found.abs().max()) <= 1


def test_a_study_brings_its_mask_as_its_last_channel(
    make_network: Make, diffusion: SliceDiffusion
) -> None:
    network, (label, image) = make_network(), volumes()
    how = Refinement(diffusion, 20, 2, guidance_scale=1.5)
    refiner, wanted = StudyRefiner(how, "AP", seed=3), VolumeRefiner(how, "AP", seed=3)
    found = refiner(torch.cat([image, label.float()], 1), network)
    assert torch.equal(found, wanted(label, network, image))
    assert torch.equal(refiner(label, network, image, [0, 1]), found)  # as evaluators call it


def test_a_study_without_a_mask_is_refined_under_the_null_mask(
    make_network: Make, diffusion: SliceDiffusion
) -> None:
    network, (label, image) = make_network(), volumes()
    how = Refinement(diffusion, 20, 2, guidance_scale=1.5)
    found = StudyRefiner(how, "AP", seed=3)(image, network)
    unguided = VolumeRefiner(replace(how, guidance_scale=0.0), "AP", seed=3)
    # no mask at all: that of the study would change nothing
    torch.testing.assert_close(found, unguided(label, network, image))
    assert not torch.equal(found, VolumeRefiner(how, "AP", seed=3)(label, network, image))


def test_three_channels(make_network: Make, diffusion: SliceDiffusion) -> None:
    label, image = volumes()
    three = image.repeat(1, 3, 1, 1, 1)
    network = make_network(image_channels=3)
    assert VolumeRefiner(Refinement(diffusion), "AP")(label, network, three).shape == three.shape


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("label", r"label: values 0\.\.9, wanted 0\.\.5; use weights of this label schema"),
        ("fraction", r"label: value .*\.5, wanted whole numbers"),
        ("grid", r"images of shape .* for masks .*; want .*: one grid"),
        ("channels", r"want \(2, 1, 7, 10, 13\): one grid and the channels of network_def"),
        ("no image", "t_start: 10 without images; want a number to refine images, null"),
        ("no start", "t_start: None with images; want a number to refine images, null"),
        ("identity", r"t_start: 0; want 1\.\.999, or leave the refiner out"),
    ],
)
def test_input_that_does_not_fit(
    make_network: Make, diffusion: SliceDiffusion, case: str, words: str
) -> None:
    label, image = volumes()
    arguments: dict[str, Any] = {"inputs": label, "before": image}
    start: int | None = 10
    if case == "label":
        arguments["inputs"] = torch.where(label == 5, 9, label)
    elif case == "fraction":
        arguments["inputs"] = label / 2
    elif case == "grid":
        arguments["before"] = image[..., 1:]
    elif case == "channels":
        arguments["before"] = image.repeat(1, 2, 1, 1, 1)
    elif case == "no image":
        arguments["before"] = None
    else:
        start = None if case == "no start" else 0
    with pytest.raises(MedpairError, match=words):
        VolumeRefiner(Refinement(diffusion, start), "AP")(network=make_network(), **arguments)


@pytest.fixture
def batch(schema: LabelSchema) -> PairBatch:
    label, image = volumes((8, 12, 16))
    return PairBatch(
        (4, 9), 1, schema, (3.0, 1.0, 1.0), (8, 12, 16), None, label[:, 0], image[:, 0]
    )


def test_the_stage_refines_images(
    make_network: Make, diffusion: SliceDiffusion, batch: PairBatch
) -> None:
    stage = RefineStage(make_network(), "brain4", Refinement(diffusion, 20, 2, "joint"))
    done = stage(batch)
    assert batch.image_VDHW is not None
    assert done.image_VDHW is not None
    assert done.image_VDHW.shape == batch.image_VDHW.shape
    assert not torch.equal(done.image_VDHW, batch.image_VDHW)
    assert torch.equal(done.image_VDHW, stage(batch).image_VDHW)
    assert not torch.equal(done.image_VDHW, stage(replace(batch, seed=2)).image_VDHW)
    assert done.label_VDHW is batch.label_VDHW


def test_the_stage_makes_images_from_noise(
    make_network: Make, diffusion: SliceDiffusion, batch: PairBatch
) -> None:
    stage = RefineStage(make_network(), "brain4", Refinement(diffusion, None, 2, views=["axial"]))
    made = stage(replace(batch, image_VDHW=None)).image_VDHW
    assert made is not None
    assert torch.equal(made, stage(batch).image_VDHW)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label_VDHW": None}, "no masks; put the stage that makes them before it"),
        ({"image_VDHW": None}, "no images; put the stage that makes them before it"),
        ({"schema": load_schema("thorax7")}, "schema 'thorax7', its weights are for 'brain4'"),
    ],
)
def test_what_the_stage_needs(
    make_network: Make,
    diffusion: SliceDiffusion,
    batch: PairBatch,
    changes: dict[str, Any],
    words: str,
) -> None:
    stage = RefineStage(make_network(), "brain4", Refinement(diffusion))
    with pytest.raises(MedpairError, match=words):
        stage(replace(batch, **changes))


def test_the_stage_wants_one_channel_and_noise(
    make_network: Make, diffusion: SliceDiffusion
) -> None:
    with pytest.raises(MedpairError, match="image_channels is 3; want 1 in a pipeline"):
        RefineStage(make_network(image_channels=3), "brain4", Refinement(diffusion))
    with pytest.raises(MedpairError, match="t_start: 0"):
        RefineStage(make_network(), "brain4", Refinement(diffusion, 0))
