"""The gate of a pipeline: generated pairs that are unlike any real scan do not pass.

V volumes, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from common.data.anatomy import check
from common.data.labels import LabelSchema
from common.data.pairs import PairBatch
from common.errors import MedpairError
from common.io.manifest import sha256
from common.metrics.alignment import Segment, label_dice
from common.metrics.intensity import label_intensity
from common.metrics.realism import scored_labels, volume_fractions
from common.metrics.values import mean_of
from segeval.ranges import Range, ranges_path, read_ranges

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """How far a pair may leave what real scans show.

    Args:
        median: of a label, beyond the real range, for images in [0, 1].
        volume: of a label's share and of all labels together, relative: 0.25 lets 0.75 times the
            smallest to 1.25 times the largest pass.
        dice: least mean Dice of the segmenter's mask of the image with the pair's own.
    """

    median: float = 0.1
    volume: float = 0.25
    dice: float = 0.8

    def __post_init__(self) -> None:
        if self.median < 0 or not 0 <= self.volume < 1 or not 0 <= self.dice <= 1:
            raise MedpairError(
                f"gate: median {self.median:g}, volume {self.volume:g}, dice {self.dice:g}; want "
                ">= 0, in [0, 1) and in [0, 1]; correct the config"
            )


class Gate:
    """Name the faults of a batch's pairs; a pipeline has those made again.

    Args:
        segment: masks of images in [-1, 1], by a network trained on real scans.
        weights: that network's file; the ranges of real scans lie beside it.
        limits: how far a pair may leave them.

    Attributes:
        identity: what decides the verdicts besides the weights, for the manifest.

    Raises:
        MedpairError: if there are no ranges beside the weights.
    """

    def __init__(self, segment: Segment, weights: str, limits: Limits | None = None) -> None:
        path = ranges_path(weights)
        self.segment, self.limits = segment, limits or Limits()
        self.ranges = read_ranges(path)
        self.identity: Mapping[str, Any] = {
            "ranges_sha256": sha256(path),
            "limits": vars(self.limits),
        }

    def __call__(self, batch: PairBatch) -> PairBatch:
        """Return the batch with the faults of each volume, () for a good one.

        Raises:
            MedpairError: where masks or images are missing, or the ranges are of another schema,
                size or spacing.
        """
        if batch.label_VDHW is None or batch.image_VDHW is None:
            missing = "masks" if batch.label_VDHW is None else "images"
            raise MedpairError(f"gate: no {missing}; put the stage that makes them before it")
        self._check_fit(batch)
        pairs = zip(batch.image_VDHW.numpy(), batch.label_VDHW.numpy(), strict=True)
        faults = (tuple(self.faults((i + 1) / 2, label, batch.schema)) for i, label in pairs)
        return replace(batch, faults=tuple(faults))

    def faults(self, image: Image, label: LabelMap, schema: LabelSchema) -> Iterator[str]:
        """Yield a line for each fault of a pair.

        Args:
            image: (D, H, W) normalised intensities, about [0, 1].
            label: (D, H, W) uint8 label map.
            schema: of the label map.
        """
        broken = int((~np.isfinite(image)).sum())
        if broken:
            yield f"image: {broken} voxels are no numbers"
        yield from self._shape_faults(label, schema)
        if not broken and label.any():
            image = np.clip(image, 0, 1)
            yield from self._intensity_faults(image, label, schema)
            yield from self._alignment_faults(image, label, schema)

    def _shape_faults(self, label: LabelMap, schema: LabelSchema) -> Iterator[str]:
        for rule in check(label, schema):
            if not rule.passed:
                least = ">=" if rule.rule == "present" else "<="
                yield f"anatomy: {rule.rule} of {rule.label} {rule.seen:g}, {least} {rule.limit:g}"
        volume = float((label > 0).sum() * np.prod(self.ranges.spacing))
        yield from _outside("volume in mm3", volume, self._wider(self.ranges.volume_mm3))
        for name, share in volume_fractions(label, schema).items():
            if name in self.ranges.fraction:
                limits = self._wider(self.ranges.fraction[name])
                yield from _outside(f"share of {name}", share, limits)

    def _intensity_faults(
        self, image: Image, label: LabelMap, schema: LabelSchema
    ) -> Iterator[str]:
        for name, numbers in label_intensity(image, label, schema).items():
            if name in self.ranges.median and not isinstance(numbers["median"], str):
                low, high = self.ranges.median[name]
                limits = low - self.limits.median, high + self.limits.median
                yield from _outside(f"median of {name}", float(numbers["median"]), limits)

    def _alignment_faults(
        self, image: Image, label: LabelMap, schema: LabelSchema
    ) -> Iterator[str]:
        volume = torch.from_numpy(2 * image - 1).float()
        found = self.segment(volume[None])[0].cpu().numpy().astype(np.uint8)
        dice = label_dice(found, label, schema)
        mean = mean_of(dice[item.name] for item in scored_labels(schema))
        if isinstance(mean, str) or mean < self.limits.dice:
            said = mean if isinstance(mean, str) else f"{mean:.3f}"
            yield f"alignment: mean Dice {said}, >= {self.limits.dice:g}"

    def _wider(self, limits: Range) -> Range:
        return limits[0] * (1 - self.limits.volume), limits[1] * (1 + self.limits.volume)

    def _check_fit(self, batch: PairBatch) -> None:
        seen = batch.schema.name, tuple(batch.size), tuple(batch.spacing)
        wanted = self.ranges.schema, tuple(self.ranges.size), tuple(self.ranges.spacing)
        if seen[:2] != wanted[:2] or not np.allclose(seen[2], wanted[2], rtol=1e-3):
            raise MedpairError(
                f"gate: pairs of schema {seen[0]}, size {seen[1]}, spacing {seen[2]}; its ranges "
                f"are of {wanted[0]}, {wanted[1]}, {wanted[2]}; leave the gate out"
            )


def _outside(what: str, value: float, limits: Range) -> Iterator[str]:
    if not limits[0] <= value <= limits[1]:
        yield f"{what}: {value:.4g}, in {limits[0]:.4g}..{limits[1]:.4g}"
