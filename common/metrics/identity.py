"""Identity: does a changed image still look like its own patient more than like anyone else?

C channels, d, h, w size of a feature map.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from common.errors import MedpairError
from common.metrics.values import Value, not_computed

Floats = npt.NDArray[np.floating]

SAME_SCAN = 0.98
"""Correlation of two volumes from which they are one scan; brains at 4 mm reach 0.96."""
ALONE = not_computed("no scans of other persons are given")


def identity_kept(result: Floats, source: Floats, others: Mapping[str, Floats]) -> dict[str, Value]:
    """Compare the distance of an image to its source with that to scans of other persons.

    The distance is the root mean square difference of feature maps, position by position, each
    channel in units of its standard deviation over source and others.

    Args:
        result: (C, d, h, w) features of the changed image.
        source: those of the patient's scan.
        others: those of other persons' scans on the same grid, by id.

    Returns:
        ``to_source``; ``to_nearest_other``, ``to_others`` (mean); ``ratio`` of to_source and
        to_nearest_other (below 1: the own patient is nearest); ``rank`` of the source among all
        (1 is best); ``n_others``; ``nearest_other`` (id). Reasons where there are no others.

    Raises:
        MedpairError: if the maps differ in shape.
    """
    shapes = {m.shape for m in (result, source, *others.values())}
    if len(shapes) != 1 or result.ndim != 4:
        raise MedpairError(
            f"features: shapes {sorted(shapes)}, one (C, d, h, w) wanted; prepare all scans with "
            "one spacing and size"
        )
    scale = _scale([source, *others.values()])
    own = _distance(result, source, scale)
    if not others:
        keys = ("to_nearest_other", "to_others", "ratio", "rank", "nearest_other")
        return {"to_source": own, **dict.fromkeys(keys, ALONE), "n_others": 0}
    far = {name: _distance(result, other, scale) for name, other in others.items()}
    name, nearest = min(far.items(), key=lambda item: item[1])
    return {
        "to_source": own,
        "to_nearest_other": nearest,
        "to_others": float(np.mean(list(far.values()))),
        "ratio": own / nearest if nearest else not_computed("another scan equals the result"),
        "rank": 1 + sum(distance < own for distance in far.values()),
        "nearest_other": name,
        "n_others": len(far),
    }


def same_scan(a: Floats, b: Floats, least: float = SAME_SCAN) -> bool:
    """Return whether two images of one grid show one scan: their correlation is at least `least`.

    Args:
        a: (D, H, W) image.
        b: another; of another shape, it is another scan.
        least: smallest correlation.
    """
    if a.shape != b.shape:
        return False
    x, y = (v.astype(np.float64).ravel() - v.mean(dtype=np.float64) for v in (a, b))
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return size > 0 and float(x @ y) / size >= least


def _scale(maps: Sequence[Floats]) -> Floats:
    """Return the deviation of each channel, (C, 1, 1, 1); 1 for a channel that never changes."""
    deviation = np.stack(maps).std(axis=(0, 2, 3, 4), dtype=np.float64)
    deviation[deviation == 0] = 1
    return np.asarray(deviation[:, None, None, None])


def _distance(a: Floats, b: Floats, scale: Floats) -> float:
    return float(np.sqrt(np.mean(((a.astype(np.float64) - b) / scale) ** 2)))
