"""Kernel distance of sets of volumes by their voxels, as papers of 3D GANs report it.

V voxels; N, M volumes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.errors import MedpairError
from common.metrics.floor import ONE_PERSON, UNBIASED, Split, against_floor
from common.metrics.set_distances import discrepancy
from common.metrics.values import Value, not_computed

Image = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_CHUNK = 1 << 18
"""Voxels per matrix product: bounds the memory."""


def products(images: Sequence[Image]) -> Floats:
    """Return the linear kernel x.y / V of every volume with every other.

    Args:
        images: N (D, H, W) images of one shape.

    Returns:
        (N, N) float64.

    Raises:
        MedpairError: if the shapes differ or there is no image.
    """
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise MedpairError(
            f"images: {len(images)} of shapes {shapes}, one shape wanted; prepare both sets at one "
            "size"
        )
    flat = [image.reshape(-1) for image in images]
    total = np.zeros((len(images), len(images)))
    for start in range(0, flat[0].size, _CHUNK):
        part = np.stack([image[start : start + _CHUNK] for image in flat]).astype(np.float64)
        total += part @ part.T
    return total / flat[0].size


def voxel_distance(
    images: Sequence[Image], persons: Sequence[str], triples: Sequence[Split]
) -> dict[str, object]:
    """Return the MMD of generated to real volumes with a linear kernel on voxels, beside a floor.

    With that kernel it is the squared distance of the mean images, without its bias: it sees that
    a mean is wrong, but no lack of variety. Pairs of one person do not count.

    Args:
        images: generated and real images of one shape, normalised intensities.
        persons: the person (or the id) of each.
        triples: indices into `images` of (generated, real, other real) per split.

    Returns:
        ``kernel``, ``n_compared``, ``n_reference`` (volumes) and the numbers of `against_floor`,
        in squared intensities.

    Raises:
        MedpairError: if the shapes differ.
    """
    kernel, names = products(images), np.array(persons)

    def distance(a: Rows, b: Rows) -> Value:
        whose = [names[rows].tolist() for rows in (a, b)]
        fewest = min(len(set(group)) for group in whose)
        if fewest < 2:
            return not_computed(f"N={fewest} persons; at least 2 in every set wanted")
        within_a, within_b, across = (kernel[np.ix_(*xy)] for xy in ((a, a), (b, b), (a, b)))
        return discrepancy(within_a, within_b, across, whose[0], whose[1])

    absent = "a set has fewer than 2 persons"
    numbers: dict[str, Value] = dict.fromkeys(("distance", "floor", "floor_p95"), ONE_PERSON)
    if triples:
        numbers = against_floor(distance, triples, absent)
    return {
        "kernel": "linear: x.y / V over the voxels",
        "n_compared": len(triples[0][0]) if triples else 0,
        "n_reference": len(triples[0][2]) if triples else 0,
        **numbers,
        "ratio": UNBIASED,
    }
