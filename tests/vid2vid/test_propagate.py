from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import MedpairError
from vid2vid.generator import SliceGenerator
from vid2vid.propagate import (
    generate_volumes,
    largest_foreground,
    travel_ticks,
)

Make = Callable[..., SliceGenerator]


def labels(volumes: int = 2, depth: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(6, (volumes, depth, 12, 8), generator=generator, dtype=torch.uint8)


@settings(deadline=None, max_examples=200)
@given(depth=st.integers(1, 60), past=st.integers(1, 4), data=st.data())
def test_every_slice_is_made_once_from_its_neighbours(
    depth: int, past: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, depth - 1))
    ticks = travel_ticks(depth, past, start)
    steps = [step for tick in ticks for step in tick]
    assert sorted(step.z for step in steps) == list(range(depth))
    assert steps[0].z == start
    done: set[int] = set()
    for tick in ticks:
        assert len({step.direction for step in tick}) == len(tick) <= 2
        for z, direction in tick:
            assert not done or z - direction in done  # the slice before it exists
        done |= {step.z for step in tick}


def test_both_directions_run_side_by_side() -> None:
    assert len(travel_ticks(41, past=2, start=20)) <= 3 + 20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_volumes_of_any_depth(make_generator: Make, channels: int, depth: int) -> None:
    network = make_generator(image_channels=channels)
    image = generate_volumes(network, labels(2, depth))
    assert image.shape == (2, channels, depth, 12, 8)
    assert torch.isfinite(image).all()
    assert image.flatten(2).abs().sum(-1).all()


def test_a_volume_is_what_its_slices_say_one_by_one(make_generator: Make) -> None:
    """Oracle: the plain loop forward and backward from the start, one slice at a time."""
    network, label, start = make_generator(), labels(1, 7), 3
    image = torch.zeros(1, 7, 1, 12, 8)
    done: list[int] = []
    order = [(3, 1), (4, 1), (5, 1), (6, 1), (2, -1), (1, -1), (0, -1)]
    for z, direction in order:
        window = [min(max(z + direction * k, 0), 6) for k in range(-2, 3)]
        before = [z - direction, z - 2 * direction]
        has = torch.tensor([[b in done for b in before]])
        past = torch.stack([image[:, min(max(b, 0), 6)] for b in before], dim=1)
        position = torch.tensor([[z / 7, 1 / 7]])
        image[:, z] = network(label[:, window], past, has, position).image.detach()
        done.append(z)
    found = generate_volumes(network, label, starts=[start])
    assert torch.allclose(found[:, 0], image[:, :, 0], atol=1e-5)


def test_a_mirrored_order_gives_the_mirrored_volume(make_generator: Make) -> None:
    # a window of one label slice, as the start slice itself is always made travelling forward
    network = make_generator(position=False, past_labels=0, ahead_labels=0)
    label = labels(1, 9)
    up = generate_volumes(network, label, starts=[0])
    down = generate_volumes(network, label.flip(1), starts=[8])
    assert torch.allclose(up, down.flip(2), atol=1e-5)


def test_a_volume_does_not_change_with_its_neighbours(make_generator: Make) -> None:
    network, label = make_generator(), labels(3)
    together = generate_volumes(network, label, starts=[0, 3, 6])
    swapped = generate_volumes(network, torch.stack([label[2], label[1], label[2]]), [6, 3, 6])
    assert torch.equal(together[1], swapped[1])
    for k, start in enumerate([0, 3, 6]):
        alone = generate_volumes(network, label[k : k + 1], [start])
        assert torch.allclose(together[k], alone[0], atol=1e-5)


def test_the_start_has_the_largest_foreground() -> None:
    label = torch.zeros(2, 5, 4, 4, dtype=torch.uint8)
    label[0, 3, :2] = 1
    label[1, 1:3, 0] = 2
    assert largest_foreground(label) == (3, 1)


def test_wrong_masks_and_starts_are_named(make_generator: Make) -> None:
    network = make_generator()
    with pytest.raises(MedpairError, match=r"values 0\.\.6, wanted 0\.\.5"):
        generate_volumes(network, labels() + (labels() == 5).to(torch.uint8))
    with pytest.raises(MedpairError, match=r"start: 7, wanted 0\.\.6"):
        generate_volumes(network, labels(), starts=[0, 7])
    with pytest.raises(MedpairError, match="start: 1 slices, wanted 2"):
        generate_volumes(network, labels(), starts=[0])
