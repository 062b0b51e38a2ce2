"""How two samples of features are compared: FID, KID, MMD, precision and recall.

N samples (slices or volumes), F features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.metrics.manifolds import covered
from common.metrics.set_distances import (
    frechet_distance,
    gaussian_kernel,
    kernel_distance,
    median_distance,
)
from common.metrics.values import Value, not_computed

Floats = npt.NDArray[np.float64]
Sample = tuple[Floats, npt.NDArray[np.str_]]
"""Samples (N, F) and the person of each."""


@dataclass(frozen=True)
class Measure:
    """A number that tells how alike two samples are.

    Attributes:
        of: the number for a generated (or real) sample and the real sample it is compared with.
        key: what it is called in a report.
        worst: percentile of the floor that says how bad real images can look.
        unbiased: whether it is 0 on average for equal sets, so that a ratio to the floor says
            nothing.
    """

    of: Callable[[Sample, Sample], Value]
    key: str = "distance"
    worst: int = 95
    unbiased: bool = False

    @property
    def keys(self) -> tuple[str, str, str, str]:
        """The keys of its numbers, see `against_floor`."""
        return (self.key, "floor", f"floor_p{self.worst}", "ratio")


def _fid(a: Sample, b: Sample) -> Value:
    return frechet_distance(a[0], b[0])


def _kid(a: Sample, b: Sample) -> Value:
    return kernel_distance(a[0], b[0], list(a[1]), list(b[1]))


def _mmd(a: Sample, b: Sample) -> Value:
    """Return the MMD; the bandwidth is that of the second sample, in distance and floor alike."""
    bandwidth = median_distance(b[0], list(b[1]))
    if not bandwidth:
        return not_computed("the real samples are all alike: the kernel has no bandwidth")
    kernel = gaussian_kernel(bandwidth)
    return kernel_distance(a[0], b[0], list(a[1]), list(b[1]), kernel)


def _precision(a: Sample, b: Sample) -> Value:
    return covered(a[0], b[0], list(b[1]))


def _recall(a: Sample, b: Sample) -> Value:
    return covered(b[0], a[0], list(a[1]))


MEASURES: Mapping[str, Measure] = {
    "fid": Measure(_fid),
    "kid": Measure(_kid, unbiased=True),
    "mmd": Measure(_mmd, unbiased=True),
    "precision": Measure(_precision, key="share", worst=5),
    "recall": Measure(_recall, key="share", worst=5),
}
"""By name; ``mmd`` has a Gaussian kernel with the median distance as bandwidth."""
