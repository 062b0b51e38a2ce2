"""What travels in memory from stage to stage of a pipeline.

V volumes, D slices, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.data.labels import LabelSchema


@dataclass(frozen=True)
class PairBatch:
    """Some volumes on their way through the stages.

    Args:
        volumes: number of each volume; with ``seed`` it keys all noise, so a volume does not
            change with its neighbours.
        seed: the run's seed.
        schema: meaning of the labels.
        spacing: voxel size along D, H, W in mm.
        size: volume size (D, H, W).
        start: first generated slice of each volume, None to draw it.
        label_VDHW: labels, uint8; None before the mask stage.
        image_VDHW: images in [-1, 1], float32; None before the image stage.
    """

    volumes: tuple[int, ...]
    seed: int
    schema: LabelSchema
    spacing: tuple[float, float, float]
    size: tuple[int, int, int]
    start: tuple[int, ...] | None = None
    label_VDHW: Tensor | None = None
    image_VDHW: Tensor | None = None
