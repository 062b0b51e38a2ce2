"""The card of a mask generator: realism, anatomical rules and novelty in one report."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.data.anatomy import anatomy_report
from common.data.labels import LabelSchema
from common.metrics.memorization import novelty
from common.metrics.realism import mask_realism

LabelMap = npt.NDArray[np.uint8]


def evaluate_masks(
    generated: Sequence[LabelMap],
    real: Sequence[LabelMap],
    persons: Sequence[str],
    schema: LabelSchema,
    spacing: Sequence[float],
    *,
    trained_on: Sequence[bool] | None = None,
    repeats: int = 50,
    seed: int = 0,
) -> dict[str, object]:
    """Evaluate generated label maps against real ones.

    Args:
        generated: (D, H, W) uint8 label maps.
        real: (D, H, W) uint8 label maps of the same grid.
        persons: the person of each real map.
        schema: the schema of all maps.
        spacing: voxel size (D, H, W) in mm.
        trained_on: whether the generator has seen each real map; all of them by default.
        repeats: number of random splits of the real persons for the floors.
        seed: seed of the splits.

    Returns:
        ``realism`` (see `mask_realism`), ``anatomy`` of the generated and ``anatomy_real`` of the
        real maps (see `anatomy_report`), ``novelty`` and ``novelty_mirrored`` (see `novelty`).

    Raises:
        MedpairError: if a set is empty, or numbers or shapes do not match.
    """
    realism = mask_realism(generated, real, persons, schema, spacing, repeats=repeats, seed=seed)
    plain, mirrored = (
        novelty(generated, real, persons, schema, trained_on=trained_on, mirror=mirror)
        for mirror in (False, True)
    )
    return {
        "realism": realism,
        "anatomy": anatomy_report(generated, schema),
        "anatomy_real": anatomy_report(real, schema),
        "novelty": plain,
        "novelty_mirrored": mirrored,
    }
