"""Training scans in memory and their changed copies; batches of single slices.

N slices, D slices per volume, H, W slice size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.checks import check_schema
from common.data.datasets import Arrays
from common.data.slice_augment import AugmentRanges, change_images, change_labels, draw_change
from common.engines.batches import Batch, iteration_generator
from common.engines.device import data_device

BACKGROUND = -1.0


@dataclass(frozen=True)
class Volume:
    """A training scan or a changed copy of it.

    Attributes:
        image_DHW: float32 in [-1, 1].
        label_DHW: uint8.
        key: number of the scan and of the copy.
    """

    image_DHW: Tensor
    label_DHW: Tensor
    key: tuple[int, int]


@dataclass
class Volumes:
    """Scans and their changed copies; a copy is made on first use and kept.

    Args:
        images: (D, H, W) float32 in [-1, 1], H and W multiples of the autoencoder's factor.
        labels: (D, H, W) uint8.
        flip_lut: label after a left/right mirror image (the last axis).
        num_classes: K.
        copies: changed copies per scan; 0 uses the scans as they are.
        ranges: ranges of the changes. ``jitter`` changes gain and gamma of a whole copy, which
            the informed slice shows and the mask does not.
        seed: with the numbers of scan and copy it fixes the change.
    """

    images: Sequence[Tensor]
    labels: Sequence[Tensor]
    flip_lut: Tensor
    num_classes: int
    copies: int = 0
    ranges: AugmentRanges = field(default_factory=AugmentRanges)
    seed: int = 0
    _made: dict[tuple[int, int], Volume] = field(default_factory=dict, repr=False)

    def draw(self, generator: torch.Generator) -> Volume:
        """Return one scan or copy."""
        index = int(torch.randint(len(self.images), (), generator=generator))
        copy = int(torch.randint(max(1, self.copies), (), generator=generator))
        return self.volume(index, copy)

    def volume(self, index: int, copy: int = 0) -> Volume:
        """Return a scan's copy by number, the scan itself where there are no copies."""
        if not self.copies:
            return Volume(self.images[index], self.labels[index], (index, 0))
        if (index, copy) not in self._made:
            self._made[index, copy] = self._change(index, copy)
        return self._made[index, copy]

    def _change(self, index: int, copy: int) -> Volume:
        change = draw_change(self.ranges, iteration_generator(self.seed + 1 + index, copy))
        label = change_labels(self.labels[index], change, self.flip_lut, self.num_classes)
        image = change_images(self.images[index][:, None], change)[:, 0]
        return Volume(image, label, (index, copy))


def training_volumes(
    data: Arrays,
    schema: str,
    num_classes: int,
    factor: int,
    copies: int = 0,
    ranges: AugmentRanges | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Volumes:
    """Return the scans of a pair set, padded in plane to what the autoencoder takes.

    Args:
        data: pairs in memory, images in about [0, 1].
        schema: name of the label schema that the config is for.
        num_classes: its number of classes.
        factor: f of the autoencoder.
        copies: changed copies per scan, 0 for none.
        ranges: ranges of the changes.
        seed: fixes the changes.
        device: where the scans and their copies are kept if they fit; changes are made there.

    Raises:
        MedpairError: if the data are of another schema.
    """
    check_schema(data.schema, schema, num_classes)
    place = data_device(device, data, copies)
    images = [pad_in_plane(to_image(image), factor, BACKGROUND).to(place) for image in data.images]
    labels = [pad_in_plane(torch.as_tensor(label), factor, 0).to(place) for label in data.labels]
    lut = torch.as_tensor(data.schema.flip_lut).to(place)
    return Volumes(images, labels, lut, num_classes, copies, ranges or AugmentRanges(), seed)


def to_image(image_DHW: object) -> Tensor:
    """Return intensities of about [0, 1] as a float32 tensor in [-1, 1]."""
    return (torch.as_tensor(image_DHW).float() * 2 - 1).clamp(-1, 1)


def pad_in_plane(volume: Tensor, factor: int, value: float) -> Tensor:
    """Return (..., H, W) padded at the far ends to multiples of ``factor``."""
    height, width = volume.shape[-2:]
    pad = (0, -width % factor, 0, -height % factor)
    return F.pad(volume, pad, value=value) if any(pad) else volume


class SliceBatches:
    """Draw batches of single slices.

    Args:
        volumes: where they come from; all of one in-plane size.
        batch_size: slices N per batch.
    """

    def __init__(self, volumes: Volumes, batch_size: int) -> None:
        self.volumes, self.batch_size = volumes, batch_size

    def __call__(self, generator: torch.Generator) -> Batch:
        """Return ``image`` (N, 1, H, W) in [-1, 1] and ``position`` (N,), slice / D in [0, 1)."""
        rows = [self._one(generator) for _ in range(self.batch_size)]
        image, position = zip(*rows, strict=True)
        return {"image": torch.stack(image), "position": torch.tensor(position)}

    def _one(self, generator: torch.Generator) -> tuple[Tensor, float]:
        volume = self.volumes.draw(generator).image_DHW
        z = int(torch.randint(len(volume), (), generator=generator))
        return volume[z][None], z / len(volume)
