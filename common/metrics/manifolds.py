"""Precision and recall of generated sets, by manifolds of nearest neighbours.

N, M samples, F features.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.metrics.set_distances import squared_distances
from common.metrics.values import Value, not_computed

Floats = npt.NDArray[np.float64]

NEIGHBOURS = 3
"""The published k."""


def covered(
    samples_NF: Floats, manifold_MF: Floats, groups: Sequence[str], k: int = NEIGHBOURS
) -> Value:
    """Return the share of samples that lie in the manifold of another set.

    The manifold is the union of balls around its samples; a ball's radius is the distance to the
    k-th nearest sample of another group. Neighbouring slices of one person are nearly equal: if
    they counted, balls would shrink to what lies between two slices and hold nobody else.

    Precision is the share of generated samples in the real manifold, recall that of real samples in
    the generated one.

    Args:
        samples_NF: features, at least 1 sample.
        manifold_MF: features of the set whose manifold it is.
        groups: the person (or volume) of each of its samples.
        k: which neighbour gives the radius, >= 1.

    Returns:
        0..1; a reason where every sample of the manifold has fewer than k others.

    Source:
        Kynkaanniemi et al. 2019 (1904.06991), equations 1 and 2; groups are our addition.
    """
    if not len(samples_NF):
        return not_computed("N=0 samples")
    radii = squared_radii(manifold_MF, groups, k)
    known = np.isfinite(radii)
    if not known.any():
        return not_computed(
            f"N={len(radii)} samples of {len(set(groups))} persons; k={k} samples of other persons "
            "wanted"
        )
    squares = squared_distances(samples_NF, manifold_MF[known])
    return float((squares <= radii[known]).any(1).mean())


def squared_radii(x_NF: Floats, groups: Sequence[str], k: int = NEIGHBOURS) -> Floats:
    """Return the squared distance of each sample to its k-th nearest one of another group.

    Args:
        x_NF: features.
        groups: the person of each sample.
        k: which neighbour, >= 1.

    Returns:
        (N,), infinite where there are fewer than k others.
    """
    names = np.array(groups)
    squares = squared_distances(x_NF, x_NF)
    squares[names[:, None] == names[None, :]] = np.inf
    if len(squares) < k:
        return np.full(len(squares), np.inf)
    radii: Floats = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return radii
