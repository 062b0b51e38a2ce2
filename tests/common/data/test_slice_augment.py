from __future__ import annotations

import torch

from common.data.slice_augment import (
    AugmentRanges,
    Change,
    change_confidence,
    change_flow,
    change_images,
    change_labels,
    draw_change,
)
from vid2vid.warp import warp

NONE = Change(mirror=False, affine=None, gain=1.0, gamma=1.0)
MIRROR = Change(mirror=True, affine=None, gain=1.0, gamma=1.0)
LUT = torch.tensor([0, 2, 1], dtype=torch.uint8)


def turned(degrees: float) -> Change:
    ranges = AugmentRanges(mirror=0, affine=1, rotate=degrees, scale=0, shift=0)
    change = draw_change(ranges, torch.Generator().manual_seed(3))
    assert change.affine is not None
    return change


def test_draws_depend_on_the_generator_alone() -> None:
    ranges = AugmentRanges(jitter=0.1)
    one, two = (draw_change(ranges, torch.Generator().manual_seed(5)) for _ in range(2))
    assert (one.mirror, one.gain, one.gamma) == (two.mirror, two.gain, two.gamma)
    off = AugmentRanges(mirror=0, affine=0, jitter=0)
    assert all(draw_change(off, torch.Generator().manual_seed(s)) == NONE for s in range(20))


def test_a_mirror_image_exchanges_left_and_right_labels() -> None:
    label = torch.tensor([[[0, 1, 2, 2]]], dtype=torch.uint8)
    assert change_labels(label, MIRROR, LUT, 3).tolist() == [[[1, 1, 2, 0]]]
    image = torch.tensor([0.0, 0.1, 0.2, 0.3]).view(1, 1, 1, 4)
    assert torch.equal(change_images(image, MIRROR), image.flip(-1))


def test_labels_and_image_move_together() -> None:
    label = torch.zeros(1, 40, 40, dtype=torch.uint8)
    label[:, 8:20, 15:30] = 1
    image = label[:, None].float()
    change = turned(30)
    moved = change_labels(label, change, torch.arange(3), 3)
    shown = change_images(image, change)[:, 0]
    assert not torch.equal(moved, label)
    assert ((shown > 0.5) == (moved == 1)).float().mean() > 0.99


def test_a_rotation_keeps_lengths_on_slices_that_are_not_square() -> None:
    label = torch.zeros(1, 60, 30, dtype=torch.uint8)
    label[:, 25:35, 10:20] = 1
    area = int((change_labels(label, turned(40), torch.arange(2), 2) == 1).sum())
    assert abs(area - 100) <= 6


def test_the_reference_flow_follows_the_changed_slices() -> None:
    row, column = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    before = torch.stack([row, column])[None] / 40
    flow = torch.stack([1.0 + 0.02 * column, -2 + 0.03 * row])[None]
    now = warp(before, flow)
    for change in (MIRROR, turned(25)):
        # the changed slice is explained by the changed flow and the changed slice before it
        explained = warp(change_images(before, change), change_flow(flow, change))
        wanted = change_images(now, change)
        inside = (..., slice(12, -12), slice(12, -12))
        assert (explained - wanted)[inside].abs().max() < 3e-3


def test_confidence_moves_like_the_image() -> None:
    weight = torch.zeros(1, 1, 4, 4)
    weight[..., 0] = 1
    assert torch.equal(change_confidence(weight, MIRROR), weight.flip(-1))
    assert torch.equal(change_confidence(weight, NONE), weight)


def test_jitter_keeps_the_range_and_the_black() -> None:
    change = Change(mirror=False, affine=None, gain=1.2, gamma=0.8)
    image = torch.linspace(-1, 1, 50).view(1, 1, 1, 50)
    changed = change_images(image, change)
    assert changed.min() == -1
    assert changed.max() == 1
    assert (changed.diff() >= 0).all()
    assert not torch.equal(changed, image)
