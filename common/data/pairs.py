"""What travels in memory from stage to stage of a pipeline.

V volumes, D slices, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.data.labels import LabelSchema
from common.errors import MedpairError


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
        faults: what is wrong with each volume, () for a good one; None where no gate has judged.
        joints: of each volume the slices where a later window begins; None where nobody knows.
    """

    volumes: tuple[int, ...]
    seed: int
    schema: LabelSchema
    spacing: tuple[float, float, float]
    size: tuple[int, int, int]
    start: tuple[int, ...] | None = None
    label_VDHW: Tensor | None = None
    image_VDHW: Tensor | None = None
    faults: tuple[tuple[str, ...], ...] | None = None
    joints: tuple[tuple[int, ...], ...] | None = None

    def check_schema(self, stage: str, schema: str) -> None:
        """Raise MedpairError unless the batch is of the schema that a stage's weights are for.

        Args:
            stage: what the stage is called in the message.
            schema: name of the label schema of its weights.
        """
        if self.schema.name != schema:
            raise MedpairError(
                f"{stage} stage: schema {self.schema.name!r}, its weights are for {schema!r}; "
                "use weights trained for that schema"
            )
