from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.data.datasets import Arrays
from common.data.slice_augment import AugmentRanges
from common.diffusion.schedules import build_schedule
from common.errors import MedpairError
from sdm.diffusion import PrepareSliceBatch, SliceDiffusion
from sdm.slices import SliceBatches, ViewSlices, one_hot_windows, pad_to_multiple, stack_volumes
from sdm.views import ViewDenoisers

MakeArrays = Callable[..., Arrays]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("most", [1, 5, 100])
def test_putting_back_what_was_taken_gives_the_volume(axis: int, most: int) -> None:
    volume = torch.randn(2, 3, 4, 5, 6)
    slices = ViewSlices(axis, 2, volume.shape[2 + axis])
    taken = [slices.take(volume, chunk) for chunk in slices.chunks(most)]
    assert torch.equal(slices.put(taken), volume)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_label_windows_hold_the_neighbours(axis: int) -> None:
    label = torch.randint(0, 6, (2, 4, 5, 6), dtype=torch.uint8)
    n = label.shape[1 + axis]
    slices = ViewSlices(axis, 2, n)
    found = slices.labels(label, torch.arange(2 * n), context=1)
    for i in range(2 * n):
        of_volume = label[i // n].movedim(axis, 0)
        k = i % n
        wanted = of_volume[[max(k - 1, 0), k, min(k + 1, n - 1)]]
        assert torch.equal(found[i], wanted)


def test_positions_tell_slice_and_number_of_slices() -> None:
    position = ViewSlices(0, 2, 4).positions(torch.tensor([0, 3, 5]))
    assert torch.equal(position, torch.tensor([[0, 0.25], [0.75, 0.25], [0.25, 0.25]]))


def test_one_hot_windows_are_the_slices_one_after_the_other() -> None:
    label = torch.randint(0, 4, (2, 3, 5, 6), dtype=torch.uint8)
    mask = one_hot_windows(label, 4)
    assert mask.shape == (2, 12, 5, 6)
    for place, plane in enumerate(mask.unbind(1)):
        assert torch.equal(plane, (label[:, place // 4] == place % 4).float())


def test_training_and_inference_see_one_mask(make_arrays: MakeArrays) -> None:
    network = ViewDenoisers(6, mask_context=1, channels=(8, 16), embedding=8, mask_hidden=8)
    draw = SliceBatches(make_arrays(), "brain4", 6, 4, mask_context=1, stride=4)
    batch = draw(torch.Generator().manual_seed(0)) | {"seed": 0, "iteration": 0}
    diffusion = SliceDiffusion(build_schedule("linear", 1000))
    _, _, (_, mask, _, _), _ = PrepareSliceBatch(diffusion, 6)(batch)
    assert torch.equal(mask, network.one_hot(batch["label"]))


def test_padding_adds_at_the_ends_only() -> None:
    volume = torch.rand(1, 3, 4, 5)
    padded = pad_to_multiple(volume, 4, -1.0)
    assert padded.shape == (1, 4, 4, 8)
    assert torch.equal(padded[:, :3, :, :5], volume)
    assert bool((padded[:, 3:] == -1).all())
    assert pad_to_multiple(padded, 4, -1.0) is padded


def test_batches_are_slices_of_the_volumes(make_arrays: MakeArrays) -> None:
    data = make_arrays()
    image, _ = stack_volumes(data, 1)
    draw = SliceBatches(data, "brain4", 6, batch_size=4, mask_context=1, stride=4)
    seen = set()
    for seed in range(12):
        batch = draw(torch.Generator().manual_seed(seed))
        axis = draw.planes.index(batch["view"])
        seen.add(batch["view"])
        n = image.shape[2 + axis]
        for k, made, label in zip(
            batch["position"][:, 0], batch["image"], batch["label"], strict=True
        ):
            place = round(float(k) * n)
            candidates = image.select(2 + axis, place)
            assert any(torch.equal(made, scan) for scan in candidates)
            assert label.shape == (3, *made.shape[1:])
    assert seen == {"axial", "coronal", "sagittal"}


def test_a_mirrored_volume_is_mirrored_in_every_view(make_arrays: MakeArrays) -> None:
    data = make_arrays(count=1)
    flip = AugmentRanges(mirror=1.0, affine=0.0)
    lut = np.asarray(data.schema.flip_lut)
    for view in ("axial", "coronal"):
        plain = SliceBatches(data, "brain4", 6, 3, stride=4, views=[view])
        mirrored = SliceBatches(data, "brain4", 6, 3, stride=4, augment=flip, views=[view])
        label = plain.label[0]
        batch = mirrored(torch.Generator().manual_seed(1))
        axis = plain.planes.index(view)
        for position, found in zip(batch["position"], batch["label"], strict=True):
            k = round(float(position[0]) * label.shape[axis])
            wanted = torch.as_tensor(lut)[label.select(axis, k).long()].flip(-1)
            assert torch.equal(found[0], wanted)


def test_a_mirrored_sagittal_slice_is_that_of_the_mirrored_volume(
    make_arrays: MakeArrays,
) -> None:
    data = make_arrays(count=1)
    flip = AugmentRanges(mirror=1.0, affine=0.0)
    draw = SliceBatches(
        data, "brain4", 6, 8, mask_context=1, stride=4, augment=flip, views=["sagittal"]
    )
    image, label = (volume.flip(-1)[0] for volume in stack_volumes(data, 4))
    label = torch.as_tensor(data.schema.flip_lut)[label.long()]
    n = label.shape[-1]
    batch = draw(torch.Generator().manual_seed(1))
    places = [round(float(position[0]) * n) for position in batch["position"]]
    assert len(set(places)) > 3
    for k, made, window in zip(places, batch["image"], batch["label"], strict=True):
        assert torch.equal(made, image[..., k])
        around = [max(k - 1, 0), k, min(k + 1, n - 1)]
        assert torch.equal(window, label[..., around].movedim(-1, 0))


def test_volumes_of_different_size_get_background(make_arrays: MakeArrays) -> None:
    small, large = make_arrays(1, (5, 8, 8)), make_arrays(1, (8, 6, 10))
    both = replace(
        small,
        ids=("a", "b"),
        images=small.images + large.images,
        labels=small.labels + large.labels,
    )
    image, label = stack_volumes(both, 4)
    assert image.shape == (2, 1, 8, 8, 12)
    assert bool((image[0, :, 5:] == -1).all())
    assert bool((label[1, :, 6:] == 0).all())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schema": "thorax7"}, "schema 'brain4' \\(6 classes\\), the config is for 'thorax7'"),
        ({"num_classes": 4}, "the config is for 'brain4' \\(4\\)"),
        ({"views": ["oblique"]}, "view 'oblique' is unknown; want coronal, axial, sagittal"),
    ],
)
def test_wrong_data(make_arrays: MakeArrays, options: dict[str, object], words: str) -> None:
    arguments = {"schema": "brain4", "num_classes": 6, "batch_size": 1} | options
    with pytest.raises(MedpairError, match=words):
        SliceBatches(make_arrays(), **arguments)  # type: ignore[arg-type]


def test_images_to_refine_come_with_the_same_changes(make_arrays: MakeArrays) -> None:
    data = make_arrays()
    inverse = [1 - image for image in data.images]
    ranges = AugmentRanges(mirror=0.5, affine=0.0)
    draw = SliceBatches(data, "brain4", 6, 8, stride=4, augment=ranges, before=inverse)
    batch = draw(torch.Generator().manual_seed(0))
    assert batch["before"].shape == batch["image"].shape
    torch.testing.assert_close(batch["before"], -batch["image"], rtol=0, atol=1e-6)
    plain = SliceBatches(data, "brain4", 6, 8, stride=4, augment=ranges)
    assert torch.equal(plain(torch.Generator().manual_seed(0))["image"], batch["image"])
