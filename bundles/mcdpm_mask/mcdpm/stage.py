"""MC-DPM as a pipeline stage: no labels in, labels out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from common.data.anatomy import clean_up
from common.data.pairs import PairBatch
from common.data.resize import resize_scores
from common.diffusion.rng import STAGES, philox4x32
from mcdpm.sampler import MaskSampler


@dataclass(frozen=True)
class MaskStage:
    """Fill a batch's labels with generated masks.

    Args:
        network: trained denoiser in eval mode.
        sampler: how masks are generated.
        schema: name of the label schema the network was trained for.
        start: "random" (paper) or "middle", where the batch does not say.
        clean: apply the schema's anatomical rules to each mask.
    """

    network: nn.Module
    sampler: MaskSampler
    schema: str
    start: str = "random"
    clean: bool = True

    def __call__(self, batch: PairBatch) -> PairBatch:
        """Return the batch with ``label_VDHW``, ``start`` and ``joints`` filled.

        Raises:
            MedpairError: if the batch is of another schema or a start lies outside the volume.
        """
        batch.check_schema("mask", self.schema)
        starts = batch.start or self._starts(batch)
        made = self.sampler(
            self.network,
            volumes=batch.volumes,
            starts=starts,
            depth=batch.size[0],
            seed=batch.seed,
            finish=partial(resize_scores, size=batch.size[1:]),
        )
        labels = torch.stack([self._cleaned(volume, batch) for volume in made.cpu()])
        joints = tuple(self.sampler.plan(batch.size[0], start).joints for start in starts)
        # an image that came along belongs to another mask
        return replace(batch, label_VDHW=labels, image_VDHW=None, start=starts, joints=joints)

    def working_bytes(self, volumes: int, size: tuple[int, int, int]) -> int:
        """Return the bytes that a batch of volumes holds at its peak, beside the weights.

        Args:
            volumes: V.
            size: (D, H, W) of the volumes.
        """
        labels = 3 * volumes * math.prod(size)  # for the conditions, finished, stacked
        return self.sampler.working_bytes(self.network, volumes) + labels

    def _starts(self, batch: PairBatch) -> tuple[int, ...]:
        room = max(1, batch.size[0] - self.sampler.window + 1)
        if self.start == "middle":
            return (room // 2,) * len(batch.volumes)
        key = (batch.seed & 0xFFFFFFFF, batch.seed >> 32)
        # window word all ones: no window of a volume has this number
        counter = [[v, STAGES["mcdpm"] << 24 | 0xFFFFFF, 0, 0] for v in batch.volumes]
        words = philox4x32(torch.tensor(counter), key)[:, 0].tolist()
        return tuple(word * room >> 32 for word in words)

    def _cleaned(self, label_DHW: Tensor, batch: PairBatch) -> Tensor:
        if not self.clean:
            return label_DHW
        return torch.from_numpy(np.array(clean_up(label_DHW.numpy(), batch.schema)))
