"""Volumes kept on another device: batches are drawn, changed and noised there, on nothing else.

The device is torch's "meta", where tensors have no values; like CUDA it refuses to be mixed with
the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from common.data.datasets import Arrays, load_arrays
from common.data.slice_augment import AugmentRanges
from common.diffusion.schedules import cosine
from common.engines.batches import iteration_generator
from gem3d.conditions import MaskEncoding
from gem3d.diffusion import PrepareWindowBatch, VolumeDiffusion
from gem3d.slice_generator import LatentSliceBatches, PrepareLatentSlices
from gem3d.volumes import SliceBatches as WholeSlices
from gem3d.volumes import training_volumes as gem3d_volumes
from gem3d.windows import LatentVolumes
from gem3d.windows import WindowBatches as LatentWindows
from mcdpm.batches import WindowBatches
from mcdpm.codec import build_codec
from mcdpm.diffusion import MaskDiffusion, PrepareMaskBatch
from mcdpm.training import training_volumes
from sdm.diffusion import PrepareSliceBatch, SliceDiffusion
from sdm.slices import SliceBatches
from vid2vid.sequences import SequenceDataset

ALWAYS = AugmentRanges(mirror=1.0, affine=1.0, jitter=0.1)


@pytest.fixture(autouse=True)
def no_generators_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws on "meta" want no generator; on a CUDA device they have one of their own."""
    own = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda *_: own())


@pytest.fixture(scope="module")
def data() -> Arrays:
    return load_arrays("phantom:brain4:20x16x16:2")


def tensors(tree: Any) -> Iterator[Tensor]:
    values = tree.values() if isinstance(tree, dict) else tree
    for value in values if isinstance(tree, dict | list | tuple) else ():
        yield from [value] if isinstance(value, Tensor) else tensors(value)


def prepared(prepare: Any, batch: dict[str, Any]) -> list[Tensor]:
    """What the network and the loss get, with the batch moved to "meta"."""
    return list(tensors(prepare(batch | {"seed": 0, "iteration": 0}, "meta", False)))


def assert_there(found: list[Tensor], at_least: int) -> None:
    assert len(found) >= at_least
    assert {tensor.device.type for tensor in found} == {"meta"}


@pytest.mark.parametrize("place", ["cpu", "meta"])
@pytest.mark.parametrize("boundary_noise", [0.0, 1.0])
def test_mcdpm(place: str, boundary_noise: float, data: Arrays) -> None:
    volumes = training_volumes(data, "brain4", (16, 16), copies=0, device=place)
    batch = WindowBatches(volumes, 6, 4, boundary_noise=boundary_noise)(iteration_generator(0, 0))
    assert batch["label"].device.type == batch["condition"].device.type == place
    diffusion = MaskDiffusion(build_codec("one_hot", 6), cosine(100), condition_noise=0.1)
    assert_there(prepared(PrepareMaskBatch(diffusion), batch), 4)


@pytest.mark.parametrize("place", ["cpu", "meta"])
@pytest.mark.parametrize("view", ["axial", "coronal", "sagittal"])
def test_sdm(place: str, view: str, data: Arrays) -> None:
    batches = SliceBatches(
        data, "brain4", 6, 4, 1, augment=ALWAYS, views=[view], before=data.images, device=place
    )
    batch = batches(iteration_generator(0, 0))
    assert batch["label"].device.type == batch["image"].device.type == place
    diffusion = SliceDiffusion(cosine(100), mask_dropout=0.5, before_share=0.5)
    assert_there(prepared(PrepareSliceBatch(diffusion, 6), batch), 5)


@pytest.mark.parametrize("place", ["cpu", "meta"])
def test_vid2vid(place: str, data: Arrays) -> None:
    dataset = SequenceDataset(data, augment=ALWAYS, slices_per_batch=8, device=place)
    batch = dataset.batch(0, iteration_generator(0, 0))
    assert batch.label.device.type == batch.image.device.type == place
    assert_there(list(tensors(vars(batch.to("meta")))), 6)


@pytest.mark.parametrize("place", ["cpu", "meta"])
def test_gem3d(place: str, data: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gem3d.windows.encode_volume", lambda _, image: torch.zeros(len(image), 4, 4, 4)
    )
    volumes = gem3d_volumes(data, "brain4", 6, 4, copies=2, ranges=ALWAYS, device=place)
    slices = WholeSlices(volumes, 4)(iteration_generator(0, 0))
    assert slices["image"].device.type == place
    latents: Any = LatentVolumes(volumes, None)  # type: ignore[arg-type]
    windows = LatentWindows(latents, 6, 3)(iteration_generator(0, 1))
    assert windows["latent"].device.type == windows["label"].device.type == place
    diffusion = VolumeDiffusion(cosine(100))
    monkeypatch.setattr("gem3d.conditions.check_labels", lambda *_: None)  # it reads values
    assert_there(prepared(PrepareWindowBatch(diffusion, MaskEncoding(6, 4)), windows), 7)
    drawn = LatentSliceBatches(latents, 4)(iteration_generator(0, 2))
    assert_there(prepared(PrepareLatentSlices(cosine(100)), drawn), 4)
