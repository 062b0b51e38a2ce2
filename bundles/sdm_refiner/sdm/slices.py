"""Slices of volumes in three views: training batches, label windows, positions.

V volumes, D, H, W volume size, N slices, n slices along an axis, C image channels, L mask slices
in the window, a, b slice size. Slice i of a view is slice i % n of volume i // n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.checks import check_schema
from common.data.datasets import Arrays
from common.data.slice_augment import AugmentRanges, change_images, change_labels, draw_change
from common.data.views import from_slices, to_slices, view_names
from common.engines.batches import Batch
from common.engines.device import data_device
from common.errors import MedpairError
from common.kernels import one_hot
from common.networks.embedding import slice_positions

BACKGROUND = -1.0


def pad_to_multiple(volume: Tensor, multiple: int, value: float) -> Tensor:
    """Return volumes (..., D, H, W) padded at the ends of the last three axes.

    Args:
        volume: images or labels.
        multiple: every size becomes a multiple of it.
        value: of the added voxels.
    """
    pad = [side for n in reversed(volume.shape[-3:]) for side in (0, -n % multiple)]
    return F.pad(volume, pad, value=value) if any(pad) else volume


@dataclass(frozen=True)
class ViewSlices:
    """All slices of some volumes normal to an axis, numbered volume by volume.

    Args:
        axis: 0 for D, 1 for H, 2 for W.
        volumes: V.
        n: slices along the axis.
    """

    axis: int
    volumes: int
    n: int

    def chunks(self, most: int) -> list[Tensor]:
        """Return the numbers of the slices in order, in pieces of at most ``most``."""
        return list(torch.arange(self.volumes * self.n).split(most))

    def take(self, volume_VCDHW: Tensor, chunk: Tensor) -> Tensor:
        """Return the slices with the given numbers, (N, C, a, b)."""
        return to_slices(volume_VCDHW, self.axis)[chunk // self.n, chunk % self.n]

    def add(self, volume_VCDHW: Tensor, chunk: Tensor, slices_NCab: Tensor) -> None:
        """Add slices with the given numbers to volumes, in place."""
        place = (chunk // self.n, chunk % self.n)
        to_slices(volume_VCDHW, self.axis)[place] += slices_NCab

    def put(self, slices_NCab: Sequence[Tensor]) -> Tensor:
        """Return volumes (V, C, D, H, W) from all slices, given in order and in pieces."""
        slices = torch.cat(list(slices_NCab)).unflatten(0, (self.volumes, self.n))
        return from_slices(slices, self.axis).contiguous()

    def labels(self, label_VDHW: Tensor, chunk: Tensor, context: int) -> Tensor:
        """Return the labels of slices and of their neighbours.

        Args:
            label_VDHW: labels, any integer type.
            chunk: numbers of the slices.
            context: neighbours on each side; the first and last slices repeat.

        Returns:
            (N, L, a, b) with L = 2 * context + 1, the slice itself in the middle.
        """
        around = chunk[:, None] % self.n + torch.arange(-context, context + 1)
        slices = to_slices(label_VDHW[:, None], self.axis)[:, :, 0]
        return slices[chunk[:, None] // self.n, around.clamp(0, self.n - 1)]

    def positions(self, chunk: Tensor) -> Tensor:
        """Return k/n and 1/n of every slice, (N, 2)."""
        return slice_positions(chunk % self.n, self.n)


def one_hot_windows(label_NLab: Tensor, num_classes: int) -> Tensor:
    """Return label windows with values 0..K-1 as the network's mask (N, L * K, a, b), float32."""
    return one_hot(label_NLab, num_classes)


class SliceBatches:
    """Draw batches of slices, all of one view; views take turns at random.

    Args:
        data: pairs in memory; volumes of different size are padded with background.
        schema: name of the label schema that the config is for.
        num_classes: K of the network.
        batch_size: slices N per batch.
        mask_context: mask slices on each side of a slice.
        stride: slices are padded to multiples of it.
        augment: random changes; None for none.
        views: the views to draw from.
        before: images of the same masks to be refined, see `sdm.data.images_to_refine`; None for
            none.
        device: where the volumes are kept if they fit; batches are cut and changed there.

    Raises:
        MedpairError: if the data are of another schema or number of classes, or a view is unknown.
    """

    def __init__(
        self,
        data: Arrays,
        schema: str,
        num_classes: int,
        batch_size: int,
        mask_context: int = 0,
        stride: int = 8,
        augment: AugmentRanges | None = None,
        views: tuple[str, ...] | list[str] = ("axial", "coronal", "sagittal"),
        before: Sequence[np.ndarray] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        check_schema(data.schema, schema, num_classes)
        self.planes = view_names(data.schema.slice_axis)
        unknown = [view for view in views if view not in self.planes]
        if unknown:
            raise MedpairError(f"view {unknown[0]!r} is unknown; want {', '.join(self.planes)}")
        self.views, self.batch_size, self.context = tuple(views), batch_size, mask_context
        self.augment, self.stride = augment, stride
        self.flip_lut = torch.as_tensor(data.schema.flip_lut)
        self.num_classes = num_classes
        self.image, self.label = stack_volumes(data, stride)
        self.channels = self.image.shape[1]
        if before is not None:
            changed, _ = stack_volumes(replace(data, images=list(before)), stride)
            self.image = torch.cat([self.image, changed], dim=1)
        place = data_device(device, data)
        self.image, self.label = self.image.to(place), self.label.to(place)
        self.flip_lut = self.flip_lut.to(place)

    def __call__(self, generator: torch.Generator) -> Batch:
        """Return one batch.

        Returns:
            ``image`` (N, C, a, b) in [-1, 1], ``label`` windows (N, L, a, b) uint8, ``position``
            (N, 2) and ``view``; ``before`` (N, C, a, b), the images to refine, where given.
        """
        view = self.views[int(torch.randint(len(self.views), (), generator=generator))]
        rows = [self._one(self.planes.index(view), generator) for _ in range(self.batch_size)]
        image, label, position = (torch.stack(column) for column in zip(*rows, strict=True))
        batch = {"label": label, "position": position, "view": view}
        names = ("image", "before")[: image.shape[1] // self.channels]
        return batch | dict(zip(names, image.split(self.channels, dim=1), strict=True))

    def _one(self, axis: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        volume = int(torch.randint(len(self.image), (), generator=generator))
        n = self.label.shape[1 + axis]
        k = int(torch.randint(n, (), generator=generator))
        window = (torch.arange(-self.context, self.context + 1) + k).clamp(0, n - 1)
        image = self.image[volume].select(1 + axis, k)[None]
        label = self.label[volume].index_select(axis, window.to(self.label.device)).movedim(axis, 0)
        if self.augment is not None:
            change = draw_change(self.augment, generator)
            if axis == 2 and change.mirror:
                # mirrored, a sagittal slice keeps its pixels; its place and its neighbours turn
                k, label = n - 1 - k, self.flip_lut[label.long()].flip(0)
                change = replace(change, mirror=False)
            label = change_labels(label, change, self.flip_lut, self.num_classes)
            image = change_images(image, change)
        return image[0], label, slice_positions(torch.tensor(k), n)


def stack_volumes(data: Arrays, stride: int) -> tuple[Tensor, Tensor]:
    """Return images (V, C, D, H, W) in [-1, 1] and labels (V, D, H, W), padded with background.

    Args:
        data: images in about [0, 1], (D, H, W) or (C, D, H, W).
        stride: sizes become multiples of it, at least those of the largest volume.
    """
    largest = [max(label.shape[axis] for label in data.labels) for axis in range(3)]

    def grow(volume: Tensor, value: float) -> Tensor:
        missing = [a - b for a, b in zip(largest, volume.shape[-3:], strict=True)]
        pad = [side for count in reversed(missing) for side in (0, count)]
        return pad_to_multiple(F.pad(volume, pad, value=value), stride, value)

    images = [torch.as_tensor(image).float() * 2 - 1 for image in data.images]
    images = [image[None] if image.ndim == 3 else image for image in images]
    labels = [torch.as_tensor(label) for label in data.labels]
    image = torch.stack([grow(i.clamp(-1, 1), BACKGROUND) for i in images])
    return image, torch.stack([grow(label, 0) for label in labels])
