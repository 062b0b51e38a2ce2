"""Distances between two sets of feature vectors.

N samples, F features.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from common.errors import MedpairError

Floats = npt.NDArray[np.float64]
Kernel = Callable[[Floats, Floats], Floats]
"""Kernel values (N, M) of two sets of samples (N, F) and (M, F)."""


def polynomial_kernel(x_NF: Floats, y_MF: Floats) -> Floats:
    """Return (x.y / F + 1)^3, the kernel of KID (1801.01401)."""
    values: Floats = (x_NF @ y_MF.T / x_NF.shape[1] + 1) ** 3
    return values


def gaussian_kernel(bandwidth: float) -> Kernel:
    """Return the kernel exp(-|x - y|^2 / (2 bandwidth^2)).

    Args:
        bandwidth: > 0, in the unit of the features.
    """

    def kernel(x: Floats, y: Floats) -> Floats:
        values: Floats = np.exp(-squared_distances(x, y) / (2 * bandwidth**2))
        return values

    return kernel


def squared_distances(x_NF: Floats, y_MF: Floats) -> Floats:
    """Return |x - y|^2 (N, M), >= 0, by one matrix product.

    Values far below the squared lengths of the vectors are rounding: those are made exactly 0.
    """
    lengths = (x_NF**2).sum(1)[:, None] + (y_MF**2).sum(1)[None, :]
    squares: Floats = lengths - 2 * (x_NF @ y_MF.T)
    squares[squares < 1e-12 * lengths] = 0
    return squares


def median_distance(x_NF: Floats, groups: Sequence[str]) -> float:
    """Return the median distance of samples of different groups, a kernel's usual bandwidth.

    Args:
        x_NF: features of at least 2 groups.
        groups: the person of each sample.
    """
    return float(np.sqrt(np.median(squared_distances(x_NF, x_NF)[_apart(groups)])))


def frechet_distance(a_NF: Floats, b_NF: Floats) -> float:
    """Return the Frechet distance of two sets' Gaussian fits, which is the FID of their features.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) with covariances A, B of divisor N - 1. The last
    trace is the sum of the singular values of Ya Yb^T, where Y^T Y is a covariance: Y is the
    centred set, or its QR factor where there are more samples than features. So nothing is squared
    or inverted, and fewer samples than features are no special case; but the value falls with N,
    so compare only values of equal N.

    Args:
        a_NF: features, at least 2 samples.
        b_NF: features of the other set, any number of samples from 2.

    Returns:
        The squared distance, >= 0, in float64.

    Raises:
        MedpairError: if a set has fewer than 2 samples, values are not finite, or widths differ.

    Source:
        Heusel et al. 2017 (1706.08500), equation 6.
    """
    a, b = _checked(a_NF, b_NF)
    root_a, root_b = _root(a), _root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + max(spread, 0.0))


def kernel_distance(
    a_NF: Floats,
    b_NF: Floats,
    a_groups: Sequence[str] | None = None,
    b_groups: Sequence[str] | None = None,
    kernel: Kernel = polynomial_kernel,
) -> float:
    """Return the unbiased squared MMD of two sets; with the default kernel this is KID.

    Pairs of one group are left out of the means within a set, as each sample's pair with itself is.
    Slices of one person are no independent samples: every person shows the same positions once, so
    that without groups slices of a set seem less alike than those of two sets.

    Args:
        a_NF: features, at least 2 samples; all of them are used at once.
        b_NF: features of the other set.
        a_groups: the person of each sample, at least 2; by default every sample is its own.
        b_groups: those of the other set.
        kernel: what measures likeness.

    Returns:
        The estimate in float64; 0 on average where the sets are alike, so below 0 by chance.

    Raises:
        MedpairError: as `frechet_distance`, or if a set has a single group.

    Source:
        Gretton et al. 2012, lemma 6; Binkowski et al. 2018 (1801.01401), section 4.
    """
    a, b = _checked(a_NF, b_NF)
    return discrepancy(
        kernel(a, a),
        kernel(b, b),
        kernel(a, b),
        [str(n) for n in range(len(a))] if a_groups is None else a_groups,
        [str(n) for n in range(len(b))] if b_groups is None else b_groups,
    )


def discrepancy(
    aa_NN: Floats,
    bb_MM: Floats,
    ab_NM: Floats,
    a_groups: Sequence[str],
    b_groups: Sequence[str],
) -> float:
    """Return the unbiased squared MMD from kernel values, see `kernel_distance`.

    Args:
        aa_NN: kernel values within the first set.
        bb_MM: within the second set.
        ab_NM: between the two.
        a_groups: the person of each sample of the first set, at least 2 different ones.
        b_groups: those of the second set.

    Raises:
        MedpairError: if a set has a single group.
    """
    return _within(aa_NN, a_groups) + _within(bb_MM, b_groups) - 2 * float(ab_NM.mean())


def _within(values: Floats, groups: Sequence[str]) -> float:
    apart = _apart(groups)
    if not apart.any():
        raise MedpairError(
            f"features: {len(apart)} samples of one group, at least 2 groups wanted; give more "
            "volumes"
        )
    return float(values[apart].mean())


def _apart(groups: Sequence[str]) -> npt.NDArray[np.bool_]:
    names = np.array(groups)
    different: npt.NDArray[np.bool_] = names[:, None] != names[None, :]
    return different


def _checked(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:] or a.ndim != 2:
        raise MedpairError(
            f"features: shapes {a.shape} and {b.shape}, (N, F) with N >= 2 and one F wanted; give "
            "more slices, of one extractor"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise MedpairError("features: NaN or infinite, finite values wanted; check the extractor")
    return a, b


def _root(x_NF: Floats) -> Floats:
    """Return Y with Y^T Y = covariance, of at most F rows."""
    centred = (x_NF - x_NF.mean(0)) / np.sqrt(len(x_NF) - 1)
    return centred if len(centred) <= centred.shape[1] else np.asarray(np.linalg.qr(centred)[1])
