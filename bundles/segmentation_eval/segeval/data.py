"""Scans and masks for training and validation.

B volumes of a batch, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.utils import CommonKeys
from torch import Tensor
from torch.nn import functional as F

from common.data.datasets import Arrays
from common.engines.batches import Batch
from common.errors import MedpairError
from segeval.augment import AugmentRanges, change_shape, change_values, draw_change
from segeval.files import Files, load_files


class Scans(torch.utils.data.Dataset[dict[str, Any]]):
    """Scans and their masks as items for MONAI's engines.

    Items: "image" the scan (1, D, H, W) float32, clipped to [0, 1]; "label" its mask (1, D, H, W)
    uint8; "id".

    Args:
        data: pairs in memory, or files: [{"image": path, "label": path}, ...].
        schema: name of the label schema that the network is for.
        num_classes: number of classes that the network is for, background included.
        spacing: voxel size (D, H, W) in mm that files are resampled to.

    Raises:
        MedpairError: if the pairs are of another schema or number of classes.
    """

    def __init__(
        self,
        data: Arrays | Files,
        schema: str,
        num_classes: int,
        spacing: Sequence[float] | None = None,
    ) -> None:
        data = load_files(data, schema, spacing)
        if data.schema.name != schema or data.schema.num_classes != num_classes:
            raise MedpairError(
                f"the data set is of schema {data.schema.name!r} with {data.schema.num_classes} "
                f"classes, the config of {schema!r} with {num_classes}; set schema and num_classes"
            )
        self.data = data

    def __len__(self) -> int:
        return len(self.data.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            CommonKeys.IMAGE: torch.as_tensor(self.data.images[index])[None].clamp(0, 1),
            CommonKeys.LABEL: torch.as_tensor(self.data.labels[index])[None],
            "id": self.data.ids[index],
        }


class ScanBatches:
    """Draw batches of randomly changed scans with their masks.

    Args:
        scans: where they come from; smaller volumes are padded with zeros to the largest.
        batch_size: volumes per batch.
        ranges: of the random changes; None leaves the scans as they are.
        roi_size: (D, H, W) of the part that is cut out of each; half of the parts have a labelled
            voxel near their middle. None keeps volumes whole.
    """

    def __init__(
        self,
        scans: Scans,
        batch_size: int,
        ranges: AugmentRanges | None = None,
        roi_size: Sequence[int] | None = None,
    ) -> None:
        if not len(scans):
            raise MedpairError("train#dataset#data: 0 labelled scans, wanted 1 or more; label some")
        self.scans, self.batch_size, self.ranges = scans, batch_size, ranges
        self.roi_size = None if roi_size is None else list(roi_size)
        self.flip_lut = torch.from_numpy(scans.data.schema.flip_lut)
        shapes = torch.tensor([label.shape for label in scans.data.labels])
        self.size: list[int] = shapes.amax(dim=0).tolist()

    def __call__(self, generator: torch.Generator) -> Batch:
        """Return "image" (B, 1, D, H, W) float32 in [0, 1] and "label" (B, 1, D, H, W) uint8."""
        pairs = [self._draw(generator) for _ in range(self.batch_size)]
        images, labels = zip(*pairs, strict=True)
        return {
            CommonKeys.IMAGE: torch.stack(images)[:, None],
            CommonKeys.LABEL: torch.stack(labels)[:, None],
        }

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        item = self.scans[int(torch.randint(len(self.scans), (), generator=generator))]
        image, label = (self._padded(item[k][0]) for k in (CommonKeys.IMAGE, CommonKeys.LABEL))
        if self.ranges is not None:
            change = draw_change(self.ranges, generator)
            num_classes = self.scans.data.schema.num_classes
            image, label = change_shape(image, label, change, self.flip_lut, num_classes)
            image = change_values(image, change, generator)
        if self.roi_size is None:
            return image, label
        part = draw_part(label, self.roi_size, generator)
        return image[part], label[part]

    def _padded(self, volume_DHW: Tensor) -> Tensor:
        missing = [n - m for n, m in zip(self.size, volume_DHW.shape, strict=True)]
        ends = [pad for n in reversed(missing) for pad in (n // 2, n - n // 2)]
        return F.pad(volume_DHW, ends)


def draw_part(
    label_DHW: Tensor, roi_size: Sequence[int], generator: torch.Generator
) -> tuple[slice, ...]:
    """Draw which part of a volume is used.

    Args:
        label_DHW: its mask, uint8; with equal chances the part has a labelled voxel in its middle
            (as far as the volume's borders allow), or lies anywhere.
        roi_size: (D, H, W) of the part; sides longer than the volume's are the volume's.
        generator: source of the draw.
    """
    u = torch.rand(5, generator=generator).tolist()
    labelled = label_DHW.nonzero()
    centre = labelled[int(u[1] * len(labelled))].tolist() if len(labelled) and u[0] < 0.5 else None
    part = []
    for axis, (whole, wanted) in enumerate(zip(label_DHW.shape, roi_size, strict=True)):
        size, last = min(whole, wanted), max(0, whole - wanted)
        first = int(u[2 + axis] * (last + 1))
        if centre is not None:
            first = min(last, max(0, centre[axis] - size // 2))
        part.append(slice(first, first + size))
    return tuple(part)
