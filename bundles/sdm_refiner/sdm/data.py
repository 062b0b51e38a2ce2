"""What the refiner's configs read: masks, the images to refine, the real scans.

D, H, W volume size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from common.data.checks import check_schema
from common.data.datasets import Arrays, Pair, PairSet
from common.errors import MedpairError

TOLERANCE_MM = 1e-3


class RefinePairs(torch.utils.data.Dataset[dict[str, Any]]):
    """Masks, images to refine and real scans as items for MONAI's evaluators.

    Items: "image" the mask (1, D, H, W) uint8, the network's input; "before" the image to refine
    (1, D, H, W) in [-1, 1], where there is one; "label" the image of the data (1, D, H, W) in
    [0, 1]; "id"; "number", which keys the noise.

    Args:
        data: masks and their images.
        schema: name of the label schema that the config is for.
        num_classes: K of the network.
        before: the images to refine, one per mask; None where images are made from noise.

    Raises:
        MedpairError: if the data are of another schema or number of classes.
    """

    def __init__(
        self,
        data: Arrays,
        schema: str,
        num_classes: int,
        before: list[np.ndarray] | None = None,
    ) -> None:
        check_schema(data.schema, schema, num_classes)
        self.data, self.before = data, before

    def __len__(self) -> int:
        return len(self.data.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        before = {}
        if self.before is not None:
            before["before"] = (torch.as_tensor(self.before[index])[None] * 2 - 1).clamp(-1, 1)
        return {
            **before,
            "image": torch.as_tensor(self.data.labels[index])[None],
            "label": torch.as_tensor(self.data.images[index])[None].clamp(0, 1),
            "id": self.data.ids[index],
            "number": index,
        }


def images_to_refine(data: Arrays, dataset_dir: str, image_dir: str | None) -> list[np.ndarray]:
    """Return an image for every mask.

    Args:
        data: the masks and their own images.
        dataset_dir: the pair set that they come from.
        image_dir: pair set with an image of each id, such as `vid2vid_image` writes; None takes the
            masks' own images.

    Returns:
        Images (D, H, W) in about [0, 1].

    Raises:
        MedpairError: if an image is missing or lies on another grid than its mask.
    """
    if image_dir is None:
        return data.images
    masks, images = PairSet.open(dataset_dir), PairSet.open(image_dir)
    return [_same_grid(masks.read(name), images.read(name), image_dir) for name in data.ids]


def split_to_refine(synthetic_dir: str, dataset_dir: str) -> str | None:
    """Return the split of the images to refine: all, but of the real scans only kept-back ones."""
    return "validation" if synthetic_dir == dataset_dir else None


def images_before(
    data: Arrays, dataset_dir: str, before_dir: str | None
) -> list[np.ndarray] | None:
    """Return the image stage's image of every training mask, None without such a pair set.

    Args, errors: as for `images_to_refine`.
    """
    return None if before_dir is None else images_to_refine(data, dataset_dir, before_dir)


def _same_grid(mask: Pair, image: Pair, image_dir: str) -> np.ndarray:
    if image.image.shape != mask.label.shape:
        raise MedpairError(
            f"{image_dir}: image {mask.id} has size {image.image.shape}, its mask "
            f"{mask.label.shape}; want one grid; resample the image onto the mask"
        )
    distance = float(np.abs(image.affine - mask.affine).max())
    if distance > TOLERANCE_MM:
        raise MedpairError(
            f"{image_dir}: the affine of image {mask.id} is off its mask's by {distance:.3g}; "
            f"want at most {TOLERANCE_MM}; resample the image onto the mask"
        )
    return image.image
