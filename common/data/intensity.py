"""Intensity normalisation that is recorded and can be undone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from common.data.labels import LabelSchema
from common.errors import MedpairError

METHODS = ("percentile", "window")


def intensity_of(schema: LabelSchema) -> dict[str, Any]:
    """The normalisation that a schema asks for.

    Returns:
        {"method": "percentile", "lower": %, "upper": %} (MRI) or
        {"method": "window", "lower": HU, "upper": HU} (CT).

    Raises:
        MedpairError: for an unknown method or bounds in the wrong order.
    """
    rule = {key: schema.intensity.get(key) for key in ("method", "lower", "upper")}
    try:
        lower, upper = (float(str(rule[key])) for key in ("lower", "upper"))
        valid = rule["method"] in METHODS and lower < upper
    except ValueError:
        valid = False
    if not valid:
        raise MedpairError(
            f"schema {schema.name}: intensity {rule}, wanted method {' or '.join(METHODS)} and "
            "lower < upper; correct the schema"
        )
    return rule


def bounds(image: np.ndarray, rule: Mapping[str, Any]) -> tuple[float, float]:
    """The raw values that become 0 and 1.

    Args:
        image: raw values, any shape.
        rule: from `intensity_of`. "percentile" takes the lower bound over all voxels and the upper
            one over the non-zero voxels, so that the size of the empty surroundings does not count.

    Returns:
        (lower, upper), lower < upper.

    Raises:
        MedpairError: for an image without contrast.
    """
    if rule["method"] == "window":
        return float(rule["lower"]), float(rule["upper"])
    filled = image[image != 0]
    lower = float(np.percentile(image, rule["lower"]))
    upper = float(np.percentile(filled, rule["upper"])) if filled.size else lower
    if not upper > lower:
        raise MedpairError(
            f"all intensities lie at {lower:g}, wanted contrast; check the file or channel"
        )
    return lower, upper


def normalise(image: np.ndarray, method: str, lower: float, upper: float) -> np.ndarray:
    """Raw values -> about [0, 1], float32; a CT window clips to [0, 1], percentiles do not clip."""
    scaled = ((image.astype(np.float32) - np.float32(lower)) / np.float32(upper - lower)).astype(
        np.float32
    )
    return np.clip(scaled, 0.0, 1.0) if method == "window" else scaled


def denormalise(image: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Undo `normalise` (up to its clipping), float32."""
    return (image.astype(np.float32) * np.float32(upper - lower) + np.float32(lower)).astype(
        np.float32
    )
