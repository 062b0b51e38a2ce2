"""Training sequences: neighbouring slices in a direction of travel, with labels and past.

B sequences, S slices per sequence, P past images, L label slices around the sequence, C channels,
K classes, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.data.checks import check_schema
from common.data.datasets import Arrays
from common.data.slice_augment import (
    AugmentRanges,
    Change,
    change_confidence,
    change_flow,
    change_images,
    change_labels,
    change_values,
    draw_change,
)
from common.engines.batches import Batch, IterationBatches, iteration_generator
from common.engines.device import data_device
from common.errors import MedpairError
from vid2vid.flow import ReferenceFlow, cached_flows
from vid2vid.generator import SliceGenerator
from vid2vid.style import fit_styles, label_medians


@dataclass(frozen=True)
class SequenceBatch:
    """A batch of sequences in the order of travel.

    Args:
        before: label slices before the sequences' own.
        label: (B, before + S + ahead, H, W) uint8; beyond the ends the outermost slice is repeated.
        image: (B, S, C, H, W) real images in [-1, 1].
        past: (B, P, C, H, W) real images before the first slice, nearest first.
        has_past: (B, P) bool, which of them may be used.
        position: (B, S, 2) z/D and 1/D.
        style: (B, K) median intensity of each class in [-1, 1].
        flow: (B, S, 2, H, W) reference flow to the slice before, pixels, or None.
        flow_weight: (B, S, 1, H, W) its confidence in [0, 1], or None.
    """

    before: int
    label: Tensor
    image: Tensor
    past: Tensor
    has_past: Tensor
    position: Tensor
    style: Tensor
    flow: Tensor | None = None
    flow_weight: Tensor | None = None

    def __len__(self) -> int:
        """Sequences B."""
        return len(self.label)

    @property
    def current(self) -> Tensor:
        """Labels of the sequences' own slices (B, S, H, W); as much window lies on both sides."""
        return self.label[:, self.before : self.before + self.image.shape[1]]

    def to(self, device: torch.device | str) -> SequenceBatch:
        """Return the batch on another device."""
        moved: dict[str, Any] = {
            k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()
        }
        return SequenceBatch(**moved)

    @staticmethod
    def stack(parts: Sequence[SequenceBatch]) -> SequenceBatch:
        """Join sequences without batch axis to a batch."""
        joined: dict[str, Any] = dict(vars(parts[0]))
        for name, value in joined.items():
            if isinstance(value, Tensor):
                joined[name] = torch.stack([getattr(part, name) for part in parts])
        return SequenceBatch(**joined)


@dataclass(frozen=True)
class Cut:
    """Where a sequence lies: volume number, travel reversed, first slice in travel order."""

    volume: int
    reverse: bool
    start: int
    first: bool


class SequenceBatches(IterationBatches):
    """The endless stream of training batches; batch i depends on (seed, i) and the process rank.

    Args:
        dataset: what sequences are drawn from.
        seed: the run's seed.
        epoch_length: batches per epoch.
        ahead: batches that a thread draws before they are wanted.
    """

    def __init__(
        self, dataset: SequenceDataset, seed: int, epoch_length: int, ahead: int = 0
    ) -> None:
        super().__init__(lambda _: {}, seed, epoch_length, ahead)
        self.dataset = dataset

    def make(self, iteration: int) -> Batch:
        """Return the batch of an iteration, counted from 0."""
        batch = self.dataset.batch(iteration, iteration_generator(self.seed, iteration))
        return {"sequences": batch, "iteration": iteration, "seed": self.seed}


class SequenceDataset:
    """Training volumes and how sequences are cut from them.

    Args:
        data: volumes with `images` (float32 (D, H, W) or (C, D, H, W), normalised to [0, 1]),
            `labels` (uint8 (D, H, W)) and `schema`.
        past_labels, ahead_labels, past_images: as in `SliceGenerator`.
        lengths: (first iteration, slices) pairs, ascending: sequences grow during the training.
        slices_per_batch: B * S; longer sequences make smaller batches.
        first_slice: share of sequences that start without a past.
        augment: random changes.
        flows: a reference flow per volume (see `vid2vid.flow`), empty for none.
        device: where the volumes are kept if they fit; sequences are cut and changed there.
    """

    def __init__(
        self,
        data: Arrays,
        past_labels: int = 2,
        ahead_labels: int = 2,
        past_images: int = 2,
        lengths: Sequence[Sequence[int]] = ((0, 4),),
        slices_per_batch: int = 64,
        first_slice: float = 0.25,
        augment: AugmentRanges | None = None,
        flows: Sequence[ReferenceFlow] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.data, place = data, data_device(device, data)
        self.images = [to_network_range(torch.as_tensor(image)) for image in data.images]
        self.labels = [torch.as_tensor(label) for label in data.labels]
        if not self.labels:
            raise MedpairError("dataset: 0 volumes, wanted 1 or more; check dataset_dir and split")
        self.num_classes = data.schema.num_classes
        self.flip_lut = torch.as_tensor(data.schema.flip_lut).to(place)
        self.past_labels, self.ahead_labels = past_labels, ahead_labels
        self.past_images, self.lengths = past_images, [tuple(pair) for pair in lengths]
        self.slices_per_batch, self.first_slice = slices_per_batch, first_slice
        self.augment, self.flows = augment or AugmentRanges(), list(flows)
        medians = [
            label_medians(image, label, self.num_classes)
            for image, label in zip(self.images, self.labels, strict=True)
        ]
        self.styles = torch.stack(medians).to(place)
        self.images = [image.to(place) for image in self.images]
        self.labels = [label.to(place) for label in self.labels]

    def __len__(self) -> int:
        """Volumes."""
        return len(self.labels)

    def length(self, iteration: int) -> int:
        """Slices per sequence at an iteration, bounded by the shallowest volume."""
        wanted = [slices for begin, slices in self.lengths if iteration >= begin][-1]
        return min(wanted, *(len(label) for label in self.labels))

    def batch(self, iteration: int, generator: torch.Generator) -> SequenceBatch:
        """Return the batch of an iteration (counted from 0); all draws come from ``generator``."""
        slices = self.length(iteration)
        parts = []
        for _ in range(max(1, self.slices_per_batch // slices)):
            cut = self._draw_cut(slices, generator)
            parts.append(self.sequence(cut, slices, draw_change(self.augment, generator)))
        return SequenceBatch.stack(parts)

    def _draw_cut(self, slices: int, generator: torch.Generator) -> Cut:
        volume = int(torch.randint(len(self.labels), (), generator=generator))
        reverse, first = torch.rand(2, generator=generator).tolist()
        starts = len(self.labels[volume]) - slices + 1
        start = int(torch.randint(starts, (), generator=generator))
        return Cut(volume, reverse < 0.5, start, first < self.first_slice)

    def sequence(self, cut: Cut, slices: int, change: Change) -> SequenceBatch:
        """Return one sequence; its tensors lack the batch axis."""
        image, label = self.images[cut.volume], self.labels[cut.volume]
        depth = len(label)
        travel = torch.arange(depth).flip(0) if cut.reverse else torch.arange(depth)
        window = torch.arange(-self.past_labels, slices + self.ahead_labels) + cut.start
        labels = label[travel[window.clamp(0, depth - 1)]]
        before = cut.start - 1 - torch.arange(self.past_images)
        wanted = torch.cat([torch.arange(slices) + cut.start, before]).clamp(0, depth - 1)
        labels = change_labels(labels, change, self.flip_lut, self.num_classes)
        images = change_images(image[travel[wanted]], change)
        here = travel[cut.start : cut.start + slices].float()
        flow, weight = self._flow(cut, travel[wanted[:slices]], change)
        return SequenceBatch(
            before=self.past_labels,
            label=labels,
            image=images[:slices],
            past=images[slices:],
            has_past=(before >= 0) & (not cut.first),
            position=torch.stack([here / depth, torch.full_like(here, 1 / depth)], dim=1),
            style=change_values(self.styles[cut.volume], change),
            flow=flow,
            flow_weight=weight,
        )

    def _flow(self, cut: Cut, z: Tensor, change: Change) -> tuple[Tensor | None, Tensor | None]:
        if not self.flows:
            return None, None
        field, confidence = self.flows[cut.volume].travelling(cut.reverse)
        return change_flow(field[z], change), change_confidence(confidence[z], change)


def to_network_range(image: Tensor) -> Tensor:
    """Return a normalised volume (D, H, W) or (C, D, H, W) as (D, C, H, W), clipped to [-1, 1]."""
    channelled = image[None] if image.ndim == 3 else image
    return (channelled.float() * 2 - 1).clamp(-1, 1).movedim(0, 1).contiguous()


def label_windows(label_BLHW: Tensor, window: int) -> Tensor:
    """Return the label window of every slice, (B, S, window, H, W), from (B, S+window-1, H, W)."""
    return label_BLHW.unfold(1, window, 1).movedim(-1, 2)


def training_sequences(
    data: Arrays,
    schema: str,
    network: SliceGenerator,
    flow_reference: str | None,
    cache_dir: str,
    lengths: Sequence[Sequence[int]] = ((0, 4),),
    slices_per_batch: int = 32,
    first_slice: float = 0.25,
    augment: AugmentRanges | None = None,
    device: torch.device | str = "cpu",
) -> SequenceDataset:
    """Return the training sequences for a network, and give the network the styles of the data.

    Args:
        data: pairs in memory.
        schema: name of the label schema that the network is for.
        network: says how long windows and past are; its style distribution is fitted.
        flow_reference: "tvl1", "ilk" or None, see `vid2vid.flow`.
        cache_dir: folder of cached flows.
        lengths: see `SequenceDataset`, as the others.
        slices_per_batch: slices of a batch.
        first_slice: share of sequences without a past.
        augment: random changes.
        device: where the volumes are kept, see `SequenceDataset`.

    Raises:
        MedpairError: if the data are of another schema or have another number of channels.
    """
    check_schema(data.schema, schema, network.num_classes)
    images = [to_network_range(torch.as_tensor(image)) for image in data.images]
    dataset = SequenceDataset(
        data,
        network.past_labels,
        network.ahead_labels,
        network.past_images,
        lengths=lengths,
        slices_per_batch=slices_per_batch,
        first_slice=first_slice,
        augment=augment,
        flows=cached_flows(images, flow_reference, cache_dir),
        device=device,
    )
    mean, factor = fit_styles(dataset.styles.cpu())
    network.style_mean.copy_(mean)
    network.style_factor.copy_(factor)
    return dataset
