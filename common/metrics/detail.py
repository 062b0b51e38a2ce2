"""Fine detail of images: is a generated image as sharp as a real one?"""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter

from common.errors import MedpairError
from common.metrics.values import Value, not_computed

Image = npt.NDArray[np.float32]


def detail(image: Image) -> float:
    """Return the mean distance of an image's voxels from the mean of their 3 x 3 x 3 neighbours.

    Args:
        image: (D, H, W) image in any unit; the value is in the same unit.
    """
    return float(np.abs(image - uniform_filter(image, 3)).mean())


def detail_ratio(generated: Image, real: Image) -> Value:
    """Return the detail of a generated image over that of a real one; below 1 it is blurred.

    Args:
        generated: (D, H, W) image, normalised intensities.
        real: (D, H, W) real scan in the same unit.

    Returns:
        The ratio, or the reason where the real image is flat.

    Raises:
        MedpairError: if the shapes differ; the empty surroundings count.
    """
    if generated.shape != real.shape:
        raise MedpairError(
            f"image: shape {generated.shape}, real {real.shape}, one (D, H, W) wanted; prepare "
            "both on one grid"
        )
    wanted = detail(real)
    return detail(generated) / wanted if wanted else not_computed("the real image is flat")
