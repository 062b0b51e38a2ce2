"""Training on files, as MONAI Label gives them: [{"image": path, "label": path}, ...]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.data.datasets import Arrays
from common.data.geometry import same_place
from common.data.labels import IDENTITY
from common.data.studies import NetworkGrid
from common.engines.batches import epoch_length
from common.errors import MedpairError
from common.io.nifti import read_volume, stem

Files = Sequence[Mapping[str, str]]
LEAST = 50
"""Updates of an epoch, where the scans are fewer: an epoch of three scans is no unit."""


def resumes(data: Arrays | Files) -> bool:
    """Return whether a training goes on from its checkpoints: on files it begins anew.

    The next request of MONAI Label comes with more scans, and finds the checkpoints of the last.
    """
    return isinstance(data, Arrays)


def load_files(data: Arrays | Files, schema: str, spacing: Sequence[float] | None) -> Arrays:
    """Return training data in memory; files are prepared as `medpair prepare` does.

    Args:
        data: pairs in memory, which are returned, or files of images with their masks.
        schema: name of the label schema, whose own ids the masks hold: MONAI Label's do.
        spacing: voxel size (D, H, W) in mm to train at; files want one.

    Raises:
        MedpairError: for files that are missing or damaged, or masks that do not fit their image
            or the schema.
    """
    if isinstance(data, Arrays):
        return data
    if spacing is None:
        raise MedpairError("spacing: none, wanted mm along D, H, W for files; set it")
    grid = NetworkGrid(schema, spacing, source=IDENTITY)
    ids, images, labels = [], [], []
    for item in data:
        image, label = read_volume(item["image"]), read_volume(item["label"])
        alike = image.array.shape == label.array.shape
        shape = (image.array.shape[0], image.array.shape[1], image.array.shape[2])
        if not alike or not same_place(shape, image.affine, label.affine):
            raise MedpairError(
                f"{item['label']}: shape {label.array.shape} or place differ, wanted those of "
                f"{item['image']}, {image.array.shape}; resample the mask to its image"
            )
        try:
            study = grid.pair(image.array, label.array, image.affine)
        except MedpairError as error:
            raise MedpairError(f"{item['label']}: {error}") from error
        assert study.image_DHW is not None
        assert study.label_DHW is not None
        ids.append(stem(Path(item["image"])))
        images.append(study.image_DHW)
        labels.append(study.label_DHW)
    return Arrays(tuple(ids), images, labels, grid.schema, grid.settings.spacing)


def updates_per_epoch(data: Arrays | Files, max_iterations: int, batch_size: int) -> int:
    """Return the updates that count as an epoch.

    Args:
        data: training data.
        max_iterations: of a training on pairs in memory; its epochs are parts of it.
        batch_size: scans per update; files are passed once in an epoch, but no less than `LEAST`
            updates, since users of MONAI Label set the number of epochs.
    """
    if isinstance(data, Arrays):
        return epoch_length(max_iterations)
    return max(LEAST, -(-len(data) // batch_size))


def published(data: Arrays | Files, bundle_root: str) -> str | None:
    """Return the weight file that a bundle in a viewer uses, None for training on a pair set.

    Who trains in MONAI Label expects the next mask from what was trained. What lay there first is
    kept beside it, see `common.engines.weights.ExportWeights`.
    """
    return None if isinstance(data, Arrays) else str(Path(bundle_root) / "models" / "model.pt")
