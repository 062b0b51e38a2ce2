"""Radiomics of slices without weights: intensity statistics, grey-level co-occurrence, gradients.

These are features of the foreground of single slices, made with scikit-image and NumPy. They are
not pyradiomics: no shape, run-length or zone features, no wavelets, and no bins per scan. Their
Frechet distance, with every feature in units of its deviation in the real reference, is a Frechet
radiomics distance (FRD) in the spirit of Konz et al. (2412.01496), not the number of their package.

N slices, F features.
"""

import numpy as np
import numpy.typing as npt
from skimage.feature import graycomatrix, graycoprops

from common.metrics.extractors import views

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

PERCENTILES = (10, 25, 50, 75, 90)
STATISTICS = (
    *("mean", "deviation", "skewness", "kurtosis", "energy", "entropy"),
    *(f"p{p}" for p in PERCENTILES),
)
TEXTURES = ("contrast", "dissimilarity", "homogeneity", "ASM", "correlation")
GRADIENTS = ("gradient_mean", "gradient_deviation")
DISTANCES = (1, 2)
ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
LEVELS = 32
"""Grey levels of co-occurrence and entropy, over intensities 0..1."""
FEWEST_PIXELS = 16
"""Slices with less foreground have no texture to speak of and are left out."""

FEATURES = (*STATISTICS, *GRADIENTS, *(f"{t}_{d}px" for t in TEXTURES for d in DISTANCES))


class SliceRadiomics:
    """Radiomics of the foreground of every slice, an extractor of three views."""

    name = "radiomics of slices (not pyradiomics)"

    def __call__(self, image: Image, label: LabelMap, slice_axis: str) -> dict[str, Floats]:
        """Return the features (N, F) of the slices with enough foreground, per view.

        Args:
            image: (D, H, W) image, normalised intensities (0..1, clipped).
            label: (D, H, W) uint8 label map.
            slice_axis: "AP" or "SI", the direction of D.
        """
        unit = np.clip(image, 0, 1).astype(np.float64)
        rows = {}
        for axis, view in enumerate(views(slice_axis)):
            slices = zip(np.moveaxis(unit, axis, 0), np.moveaxis(label > 0, axis, 0), strict=True)
            found = [slice_radiomics(pixels, shown) for pixels, shown in slices]
            known = [row for row in found if row is not None]
            rows[view] = np.array(known).reshape(len(known), len(FEATURES))
        return rows


def slice_radiomics(pixels: Floats, shown: npt.NDArray[np.bool_]) -> Floats | None:
    """Return the features of one slice, in the order of `FEATURES`.

    Flat regions have skewness and kurtosis 0 and correlation 1, as in pyradiomics.

    Args:
        pixels: (H, W) intensities 0..1.
        shown: (H, W), its foreground.

    Returns:
        (F,) finite numbers; None where there is too little foreground.
    """
    if shown.sum() < FEWEST_PIXELS:
        return None
    grey = np.minimum(pixels * LEVELS, LEVELS - 1).astype(np.uint8)
    steps, texture = _steps(pixels, shown), _textures(grey, shown)
    if steps is None or texture is None:
        return None
    return np.concatenate([_statistics(pixels[shown], grey[shown]), steps, texture])


def _statistics(values: Floats, grey: npt.NDArray[np.uint8]) -> Floats:
    mean, deviation = values.mean(), values.std()
    unit = (values - mean) / deviation if deviation > 1e-9 else np.zeros_like(values)
    share = np.bincount(grey, minlength=LEVELS) / len(grey)
    share = share[share > 0]
    moments = (mean, deviation, (unit**3).mean(), (unit**4).mean(), (values**2).mean())
    entropy = -(share * np.log2(share)).sum()
    return np.array([*moments, entropy, *np.percentile(values, PERCENTILES)])


def _steps(pixels: Floats, shown: npt.NDArray[np.bool_]) -> Floats | None:
    """Return mean and deviation of the steps to the next pixel, both in the foreground."""
    steps = np.concatenate(
        [
            np.abs(np.diff(pixels))[shown[:, 1:] & shown[:, :-1]],
            np.abs(np.diff(pixels, axis=0))[shown[1:] & shown[:-1]],
        ]
    )
    return np.array([steps.mean(), steps.std()]) if steps.size else None


def _textures(grey: npt.NDArray[np.uint8], shown: npt.NDArray[np.bool_]) -> Floats | None:
    """Return the properties of co-occurrence, all directions in one matrix per distance."""
    marked = np.where(shown, grey + 1, 0).astype(np.uint8)  # level 0: not in the foreground
    counts = graycomatrix(marked, DISTANCES, ANGLES, levels=LEVELS + 1, symmetric=True)
    pairs = counts[1:, 1:].sum(3, keepdims=True).astype(np.float64)
    if not pairs.sum((0, 1)).all():
        return None
    return np.concatenate([graycoprops(pairs, name)[:, 0] for name in TEXTURES])
