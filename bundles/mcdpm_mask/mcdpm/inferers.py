"""Masks for volumes of given size, as MONAI's inferers are called.

V volumes, D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from monai.inferers import Inferer
from torch import Tensor, nn

from common.data.labels import load_schema
from common.data.pairs import PairBatch
from mcdpm.stage import MaskStage


class GridInferer(Inferer):
    """Generate masks that are as large as the input, of which nothing else is used.

    Args:
        stage: how masks are generated.
        spacing: voxel size (D, H, W) in mm.
        seed: the run's seed.
        start: first generated slice of every volume; None draws it.
    """

    def __init__(
        self, stage: MaskStage, spacing: Sequence[float], seed: int = 0, start: int | None = None
    ) -> None:
        super().__init__()
        d, h, w = (float(v) for v in spacing)
        self.stage, self.spacing, self.seed, self.start = stage, (d, h, w), seed, start

    def __call__(
        self, inputs: Tensor, network: nn.Module, number: Sequence[int] | Tensor | None = None
    ) -> Tensor:
        """Return masks (V, 1, D, H, W), uint8.

        Args:
            inputs: (V, C, D, H, W).
            network: trained denoiser.
            number: number of each volume, which keys its noise; default 0, 1, ...

        Raises:
            MedpairError: for a start outside of the volume.
        """
        depth, height, width = inputs.shape[-3:]
        numbers = range(len(inputs)) if number is None else [int(n) for n in number]
        batch = PairBatch(
            volumes=tuple(numbers),
            seed=self.seed,
            schema=load_schema(self.stage.schema),
            spacing=self.spacing,
            size=(depth, height, width),
            start=None if self.start is None else (self.start,) * len(inputs),
        )
        made = replace(self.stage, network=network.eval())(batch)
        assert made.label_VDHW is not None
        return made.label_VDHW[:, None]
