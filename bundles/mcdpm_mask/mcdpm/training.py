"""Objects that the training config names: data, validation windows and sample pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.data.augment import WarpRanges
from common.data.datasets import Arrays
from common.data.labels import LabelSchema
from common.data.pictures import label_rows, save_rows
from common.data.resize import resize_labels
from common.engines.batches import IterationBatches
from common.engines.device import data_device
from common.errors import MedpairError
from mcdpm.batches import AugmentedVolumes
from mcdpm.sampler import MaskSampler


def training_volumes(
    data: Arrays,
    schema: str,
    size: tuple[int, int],
    copies: int = 64,
    ranges: WarpRanges | None = None,
    seed: int = 0,
    flip: bool = True,
    num_classes: int | None = None,
    device: torch.device | str = "cpu",
) -> AugmentedVolumes:
    """Return the masks of a pair set at the network's in-plane size, to be deformed and mirrored.

    Args:
        data: pairs in memory.
        schema: name of the label schema that the network is for.
        size: in-plane size (H, W) of the network.
        copies: deformed copies per mask, 0 for none.
        ranges: ranges of the deformation.
        seed: fixes the deformations.
        flip: mirror left and right with label swap; W must be the left-right axis.
        num_classes: number of classes that the label code is for, compared with the schema's.
        device: where the masks and their copies are kept if they fit; batches are drawn there.

    Raises:
        MedpairError: if the split is empty, or of another schema or number of classes.
    """
    if not data.labels:
        raise MedpairError("the data set has no pair in this split; prepare one with more persons")
    if data.schema.name != schema or num_classes not in (None, data.schema.num_classes):
        raise MedpairError(
            f"the data set is of schema {data.schema.name!r} with {data.schema.num_classes} "
            f"classes, the config of {schema!r} with {num_classes or 'as many'}; set schema, "
            "num_classes and network_def#code_channels to fit"
        )
    classes = data.schema.num_classes
    height, width = size
    labels = [resize_labels(torch.from_numpy(x), (height, width), classes) for x in data.labels]
    place = data_device(device, data, copies)
    labels = [label.to(place) for label in labels]
    lut = torch.from_numpy(np.asarray(data.schema.flip_lut)).to(place) if flip else None
    return AugmentedVolumes(labels, lut, classes, copies, ranges or WarpRanges(), seed)


class SamplePicture:
    """Draw a picture of freshly generated masks after every validation.

    Args:
        network: the averaged network.
        sampler: generates the masks.
        schema: colours and class count.
        depth: slices per mask.
        output_dir: gets ``samples/<iteration>.png``.
        batches: the trainer's data, whose iteration names the picture.
        count: masks per picture.
    """

    def __init__(
        self,
        network: nn.Module,
        sampler: MaskSampler,
        schema: LabelSchema,
        depth: int,
        output_dir: str,
        batches: IterationBatches,
        count: int = 4,
    ) -> None:
        self.network, self.sampler, self.schema = network, sampler, schema
        self.depth, self.count, self.batches = depth, count, batches
        self.folder = Path(output_dir) / "samples"

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _draw(self) -> None:
        scores = self.sampler(
            self.network.eval(),
            volumes=range(self.count),
            starts=[self.depth // 2] * self.count,
            depth=self.depth,
            seed=0,
        )
        labels = scores.argmax(dim=2).byte().cpu().numpy()
        rows = [row for label in labels for row in label_rows(label, self.schema)]
        save_rows(rows, self.folder / f"{self.batches.iteration:06d}.png")
