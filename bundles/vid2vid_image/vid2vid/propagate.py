"""Generate whole volumes: a start slice, then forward and backward along the slices.

V volumes, D depth, C channels, K classes, P past images, L label window, H height, W width.
Two slots per volume run as one batch of fixed shape 2V: slot v goes forward, slot V + v backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from common.data.checks import check_labels
from common.diffusion.windows import Window, plan_windows
from common.errors import MedpairError
from common.networks.embedding import slice_positions
from vid2vid.generator import SliceGenerator


class Step(NamedTuple):
    """Write slice `z`, coming from lower (`direction` 1) or from higher slices (-1)."""

    z: int
    direction: int


Tick = tuple[Step, ...]


def travel_ticks(depth: int, past: int, start: int) -> list[Tick]:
    """Return the order in which the slices of one volume are made.

    Args:
        depth: slices D.
        past: past images the generator sees; a window holds them and one new slice.
        start: the slice that is made first, from its labels alone.

    Returns:
        Ticks of one or two steps; the steps of a tick do not depend on each other. Every slice is
        written exactly once.
    """
    plan = plan_windows(depth, past + 1, past, start)
    first = plan.rounds[0][0].new
    ticks: list[Tick] = [(Step(z, 1),) for z in range(start, first.stop)]
    ticks += [(Step(z, -1),) for z in reversed(range(first.start, start))]
    for windows in plan.rounds[1:]:
        ticks += [tuple(filter(None, t)) for t in zip_longest(*map(_window_steps, windows))]
    return [tick for tick in ([s for s in tick if s.z < depth] for tick in ticks) if tick]  # type: ignore[misc]


def _window_steps(window: Window) -> list[Step]:
    if window.new.start >= window.known.stop:
        return [Step(z, 1) for z in window.new]
    return [Step(z, -1) for z in reversed(window.new)]


def largest_foreground(label_VDHW: Tensor) -> tuple[int, ...]:
    """Return for each volume the slice with the most foreground, the first of equals."""
    area_VD = (label_VDHW > 0).flatten(2).sum(dim=2)
    return tuple(int(z) for z in area_VD.argmax(dim=1))


@torch.no_grad()
def generate_volumes(
    network: SliceGenerator,
    label_VDHW: Tensor,
    starts: Sequence[int] | None = None,
    style_VK: Tensor | None = None,
) -> Tensor:
    """Generate the images of masks.

    A volume does not depend on the others of the batch.

    Args:
        network: the generator, in eval mode.
        label_VDHW: masks, integers in 0..K-1.
        starts: start slice of each volume; default the largest foreground.
        style_VK: style of each volume in [-1, 1]; default the mean of the training.

    Returns:
        Images (V, C, D, H, W), float32 in [-1, 1].

    Raises:
        MedpairError: for labels outside the network's, or starts outside the depth.
    """
    volumes, depth, height, width = label_VDHW.shape
    check_labels(label_VDHW, network.num_classes)
    starts = largest_foreground(label_VDHW) if starts is None else tuple(starts)
    _check_starts(starts, volumes, depth)
    image = torch.zeros(volumes, network.image_channels, depth, height, width)
    canvas = _Canvas(network, label_VDHW, image.to(label_VDHW.device), style_VK)
    plans = [travel_ticks(depth, network.past_images, start) for start in starts]
    for ticks in zip_longest(*plans, fillvalue=()):
        canvas.run(ticks)
    return canvas.image


def _check_starts(starts: Sequence[int], volumes: int, depth: int) -> None:
    if len(starts) != volumes:
        raise MedpairError(f"start: {len(starts)} slices, wanted {volumes}; give one per volume")
    outside = [z for z in starts if not 0 <= z < depth]
    if outside:
        raise MedpairError(f"start: {outside[0]}, wanted 0..{depth - 1}; choose another slice")


class _Canvas:
    """The images under way and which of their slices are done."""

    def __init__(
        self, network: SliceGenerator, label: Tensor, image: Tensor, style: Tensor | None
    ) -> None:
        self.network, self.label, self.image = network, label, image
        self.volumes, self.depth = label.shape[:2]
        self.style = None if style is None else style.to(image).repeat(2, 1)
        self.done = torch.zeros(self.volumes, self.depth, dtype=torch.bool)

    def run(self, ticks: Sequence[Tick]) -> None:
        """Make one slice per direction and volume; empty slots repeat a slice and are dropped."""
        slots = self._slots(ticks)
        z = torch.tensor([step.z for step, _ in slots])
        direction = torch.tensor([step.direction for step, _ in slots])
        volume = torch.arange(self.volumes).repeat(2)
        made = self._generate(volume, z, direction)
        for slot, (step, used) in enumerate(slots):
            if used:
                self.image[slot % self.volumes, :, step.z] = made[slot]
                self.done[slot % self.volumes, step.z] = True

    def _slots(self, ticks: Sequence[Tick]) -> list[tuple[Step, bool]]:
        forward = [next((s for s in tick if s.direction == 1), None) for tick in ticks]
        backward = [next((s for s in tick if s.direction == -1), None) for tick in ticks]
        return [(step or Step(0, 1), step is not None) for step in chain(forward, backward)]

    def _generate(self, volume: Tensor, z: Tensor, direction: Tensor) -> Tensor:
        net = self.network
        window = torch.arange(-net.past_labels, net.ahead_labels + 1)
        at = (z[:, None] + direction[:, None] * window).clamp(0, self.depth - 1)
        label_BLHW = self.label[volume[:, None], at]
        before = z[:, None] - direction[:, None] * torch.arange(1, net.past_images + 1)
        inside = before.clamp(0, self.depth - 1)
        has_past = self.done[volume[:, None], inside] & (before == inside)
        past_BPCHW = self.image.transpose(1, 2)[volume[:, None], inside]
        where = slice_positions(z, self.depth)
        device = self.image.device
        output = net(label_BLHW, past_BPCHW, has_past.to(device), where.to(device), self.style)
        image: Tensor = output.image
        return image
