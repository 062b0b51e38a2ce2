from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.data.datasets import Arrays
from common.data.labels import load_schema
from common.data.slice_augment import AugmentRanges, Change
from common.errors import MedpairError
from vid2vid.sequences import (
    Cut,
    SequenceBatches,
    SequenceDataset,
    to_network_range,
    training_sequences,
)

MakeDataset = Callable[..., SequenceDataset]
NONE = Change(mirror=False, affine=None, gain=1.0, gamma=1.0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_a_cut_holds_the_right_slices(make_dataset: MakeDataset, reverse: bool, start: int) -> None:
    data = make_dataset()
    label, image = data.labels[1], data.images[1]
    if reverse:
        label, image = label.flip(0), image.flip(0)
    part = data.sequence(Cut(1, reverse, start, first=False), 4, NONE)
    assert torch.equal(part.image, image[start : start + 4])
    assert torch.equal(part.label[part.before : part.before + 4], label[start : start + 4])
    window = [min(max(z, 0), 9) for z in range(start - 2, start + 6)]
    assert torch.equal(part.label, label[window])
    assert part.has_past.tolist() == [start >= 1, start >= 2]
    for k in range(min(start, 2)):
        assert torch.equal(part.past[k], image[start - 1 - k])
    travelled = [9 - z if reverse else z for z in range(start, start + 4)]
    assert torch.allclose(part.position[:, 0] * 10, torch.tensor(travelled).float())


def test_a_first_sequence_has_no_past(make_dataset: MakeDataset) -> None:
    part = make_dataset().sequence(Cut(0, False, 5, first=True), 4, NONE)
    assert not part.has_past.any()


def test_batches_depend_on_seed_and_iteration_alone(make_dataset: MakeDataset) -> None:
    def after(seed: int, begin: int) -> torch.Tensor:
        batches = SequenceBatches(make_dataset(), seed, 10)
        batches.iteration = begin
        stream = iter(batches)
        return torch.stack([next(stream)["sequences"].image for _ in range(8 - begin)])

    assert torch.equal(after(0, 0)[5:], after(0, 5))
    assert not torch.equal(after(0, 5), after(1, 5))
    assert not torch.equal(after(0, 6)[0], after(0, 6)[1])


def test_sequences_grow_and_batches_shrink(make_dataset: MakeDataset) -> None:
    data = make_dataset(lengths=[(0, 2), (3, 4), (5, 16)], slices_per_batch=8)
    shapes = [tuple(data.batch(i, torch.Generator()).image.shape[:2]) for i in (0, 2, 3, 5)]
    # 16 slices do not fit a depth of 10
    assert shapes == [(4, 2), (4, 2), (2, 4), (1, 10)]


def test_both_directions_and_first_sequences_are_drawn(make_dataset: MakeDataset) -> None:
    data = make_dataset(slices_per_batch=400, first_slice=0.25, augment=AugmentRanges(0, 0))
    batch = data.batch(0, torch.Generator().manual_seed(0))
    rising = batch.position[:, 1, 0] > batch.position[:, 0, 0]
    assert 0.3 < rising.float().mean() < 0.7
    alone = (~batch.has_past[:, 0]).float().mean()
    assert 0.25 < alone < 0.55  # a quarter, and those at the edge of the volume


@pytest.mark.parametrize("channels", [0, 3])
def test_images_reach_the_network_in_its_range(
    make_arrays: Callable[..., Arrays], channels: int
) -> None:
    data = make_arrays(channels=channels)
    volume = to_network_range(torch.as_tensor(data.images[0] * 3))
    assert volume.shape == (10, max(1, channels), 12, 8)
    assert volume.max() == 1
    assert torch.allclose(volume[0, 0, 0, 0], torch.tensor(data.images[0].flat[0] * 6 - 1))


def test_style_is_the_median_of_each_label(make_dataset: MakeDataset) -> None:
    data = make_dataset()
    part = data.sequence(Cut(0, False, 0, first=True), 4, NONE)
    values = data.images[0][:, 0][data.labels[0] == 3].numpy()
    assert abs(float(part.style[3]) - np.median(values)) < 0.02


def test_the_training_set_fits_the_network(
    make_arrays: Callable[..., Arrays], make_generator: Callable[..., object]
) -> None:
    network = make_generator(ahead_labels=1, style="medians")
    data = training_sequences(make_arrays(), "brain4", network, None, "unused")  # type: ignore[arg-type]
    assert data.ahead_labels == 1
    assert torch.allclose(network.style_mean, data.styles.mean(0), atol=1e-6)  # type: ignore[attr-defined]


def test_wrong_data_are_named(
    make_arrays: Callable[..., Arrays], make_generator: Callable[..., object]
) -> None:
    with pytest.raises(MedpairError, match="0 volumes"):
        SequenceDataset(make_arrays(count=0))
    thorax = replace(make_arrays(), schema=load_schema("thorax7"))
    with pytest.raises(MedpairError, match=r"'thorax7' .*'brain4'"):
        training_sequences(thorax, "brain4", make_generator(), None, "unused")  # type: ignore[arg-type]
