from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from common.data.augment import WarpRanges
from common.data.labels import load_schema
from segeval.augment import AugmentRanges, Change, change_shape, change_values, draw_change

STILL = Change(flip=False, warp=None, gain=1.0, offset=0.0, gamma=1.0, noise=0.0, blur=0.0)
OFF = AugmentRanges(flip=0.0, warp=0.0, intensity=0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(6, 8, 10, generator=generator(3))


@pytest.fixture
def label() -> Tensor:
    return torch.randint(8, (6, 8, 10), generator=generator(4)).to(torch.uint8)


@pytest.fixture
def flip_lut() -> Tensor:
    return torch.from_numpy(load_schema("thorax7").flip_lut)


def test_changes_that_are_off_change_nothing(
    image: Tensor, label: Tensor, flip_lut: Tensor
) -> None:
    change = draw_change(OFF, generator())
    assert change == STILL
    moved = change_shape(image, label, change, flip_lut, 8)
    assert torch.equal(moved[0], image)
    assert torch.equal(moved[1], label)
    assert torch.equal(change_values(image, change, generator()), image)


def test_every_draw_takes_equally_many_random_values() -> None:
    sources = [generator(), generator()]
    for source, ranges in zip(sources, (OFF, AugmentRanges()), strict=True):
        draw_change(ranges, source)
    assert torch.equal(*(torch.rand(3, generator=source) for source in sources))


def test_draws_stay_within_their_ranges_and_reach_towards_them() -> None:
    ranges = AugmentRanges(intensity=1.0)
    source = generator()
    drawn = [draw_change(ranges, source) for _ in range(300)]
    assert 0.4 < sum(change.flip for change in drawn) / 300 < 0.6
    assert 0.7 < sum(change.warp is not None for change in drawn) / 300 < 0.9
    reached = {
        "gain": max(abs(change.gain - 1) for change in drawn),
        "offset": max(abs(change.offset) for change in drawn),
        "gamma": max(abs(math.log(change.gamma)) for change in drawn),
        "noise": max(change.noise for change in drawn),
        "blur": max(change.blur for change in drawn),
    }
    for name, value in reached.items():
        assert 0.9 * getattr(ranges, name) < value <= getattr(ranges, name), name
    assert min(change.noise for change in drawn) >= 0


def test_a_mirror_image_exchanges_the_sides(image: Tensor, label: Tensor, flip_lut: Tensor) -> None:
    change = replace(STILL, flip=True)
    once = change_shape(image, label, change, flip_lut, 8)
    assert torch.equal(once[0], image.flip(-1))
    assert not torch.equal(once[1], label.flip(-1))  # thorax7 has lungs on both sides
    twice = change_shape(*once, change, flip_lut, 8)
    assert torch.equal(twice[0], image)
    assert torch.equal(twice[1], label)


def test_image_and_mask_move_together() -> None:
    label = torch.zeros(16, 16, 16, dtype=torch.uint8)
    label[4:9, 5:12, 3:10] = 1
    ranges = AugmentRanges(flip=0.5, warp=1.0, ranges=WarpRanges(15.0, 0.1, 2.0, 1.0))
    for seed in range(5):
        change = draw_change(ranges, generator(seed))
        image, moved = change_shape(label.float(), label, change, torch.arange(2).byte(), 2)
        assert not torch.equal(moved, label)
        certain = (image - 0.5).abs() > 1e-3
        assert torch.equal((image > 0.5)[certain], (moved == 1)[certain])


def test_each_change_of_intensity_does_what_it_says(image: Tensor) -> None:
    def changed(**changes: float) -> Tensor:
        return change_values(image, replace(STILL, **changes), generator())

    assert torch.allclose(changed(gain=0.5), image / 2)
    assert torch.allclose(changed(offset=0.1), (image + 0.1).clamp(max=1))
    assert torch.allclose(changed(gamma=2.0), image**2)
    noise = (changed(gain=0.5, offset=0.25, noise=0.02) - image / 2 - 0.25) / 0.02
    assert 0.9 < float(noise.std()) < 1.1
    blurred = changed(blur=0.7)
    inside = (slice(2, -2),) * 3
    assert blurred[inside].std() < 0.6 * image[inside].std()
    assert abs(float(blurred[inside].mean() - image[inside].mean())) < 0.05


def test_intensities_stay_in_the_unit_range(image: Tensor) -> None:
    change = replace(STILL, gain=2.0, offset=-0.3, noise=0.2)
    made = change_values(2 * image - 0.5, change, generator())
    assert float(made.min()) == 0.0
    assert float(made.max()) == 1.0
