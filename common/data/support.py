"""The container label: which unlabelled voxels still belong to the brain or body."""

import numpy as np
from scipy import ndimage

from common.data.geometry import bounding_box
from common.data.labels import IDENTITY, LabelSchema

_BODY_HU = -300.0


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill what a mask encloses (face-connected), bool of the same shape.

    Only the mask's bounding box is looked at: in a scan that is a fraction of the volume.
    """
    out = mask.copy()
    box = tuple(slice(first, end) for first, end in bounding_box(mask))
    outside = np.pad(~mask[box], 1, constant_values=True)
    regions, _ = ndimage.label(outside)
    inner = (slice(1, -1),) * mask.ndim
    out[box] = (regions != regions[(0,) * mask.ndim])[inner]
    return out


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest face-connected part of a mask; an empty mask stays empty."""
    regions, count = ndimage.label(mask)
    if count <= 1:
        return mask.copy()
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    return np.asarray(regions == int(sizes.argmax()))


def ct_body(image_hu: np.ndarray) -> np.ndarray:
    """The body in a CT: denser than -300 HU, without table and air, lungs included.

    Args:
        image_hu: (R, A, S), Hounsfield units.

    Returns:
        bool (R, A, S). Each axial slice is filled on its own, because lungs that the scan cuts off
        above or below are open in 3D.
    """
    in_plane = ndimage.generate_binary_structure(2, 1)[:, :, None]  # 3D would round the scan's ends
    dense = ndimage.binary_opening(image_hu > _BODY_HU, in_plane, iterations=2)
    body = largest_component(dense)
    for z in range(body.shape[2]):
        body[:, :, z] = ndimage.binary_fill_holes(body[:, :, z])
    return body


def add_container(
    label: np.ndarray, image: np.ndarray | None, schema: LabelSchema, source: str | None = None
) -> np.ndarray:
    """Give every unlabelled voxel of the support the container's id.

    Args:
        label: schema ids, uint8 (R, A, S).
        image: raw intensities of the same shape (CT: Hounsfield units); None where there is none,
            then the support is the filled union of all labels.
        schema: a schema without container returns the labels unchanged.
        source: where the labels came from; for the sources listed under `container.sources` the
            support is the filled union of all labels, whatever the image shows.

    Returns:
        uint8 (R, A, S). A mask in the schema's own ids that already has a container is kept.
    """
    box, identity = schema.container, schema.container_id
    if box is None or identity is None:
        return label
    if source in (None, IDENTITY) and (label == identity).any():
        return label
    if image is None or box.support == "labels" or source in box.sources:
        support = fill_holes(label > 0)
    elif box.support == "ct_body":
        support = ct_body(image)
    else:
        support = fill_holes(image != 0)
    return np.where((label == 0) & support, np.uint8(identity), label).astype(np.uint8)
