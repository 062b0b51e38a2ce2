"""Ranges of real scans, as a gate wants them: aggregated numbers, no scan can be seen in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.data.datasets import Spacing, load_arrays
from common.data.labels import LabelSchema
from common.errors import MedpairError
from common.io.atomic import write_json
from common.metrics.intensity import label_intensity
from common.metrics.realism import volume_fractions

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Range = tuple[float, float]

FORMAT = "medpair-ranges-1"
FEWEST = 4
"""Scans without which smallest and largest values say little, and much about each scan."""


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest value over real scans.

    Attributes:
        schema: name of the label schema.
        preset: size that the scans were prepared for.
        size: voxels (D, H, W) of all scans.
        spacing: voxel size (D, H, W) in mm.
        scans: how many there were.
        median: of the normalised image in each label that every scan holds.
        fraction: share of each label, the container left out, in all labelled voxels.
        volume_mm3: of all labels together.
    """

    schema: str
    preset: str
    size: tuple[int, int, int]
    spacing: Spacing
    scans: int
    median: Mapping[str, Range]
    fraction: Mapping[str, Range]
    volume_mm3: Range


def measure_ranges(
    images: Sequence[Image],
    labels: Sequence[LabelMap],
    schema: LabelSchema,
    spacing: Spacing,
    preset: str,
) -> Ranges:
    """Measure the ranges of real scans.

    Args:
        images: (D, H, W) normalised intensities, clipped to [0, 1].
        labels: (D, H, W) uint8 label maps of one size.
        schema: of the label maps.
        spacing: voxel size (D, H, W) in mm.
        preset: size that the scans were prepared for.

    Raises:
        MedpairError: for fewer than `FEWEST` scans or scans of different sizes.
    """
    sizes = {label.shape for label in labels}
    if len(images) < FEWEST or len(sizes) != 1:
        raise MedpairError(
            f"dataset_dir: {len(images)} scans of sizes {sorted(sizes)}, wanted at least {FEWEST} "
            "of one size; prepare more with --size"
        )
    medians = [label_intensity(i, m, schema) for i, m in zip(images, labels, strict=True)]
    fractions = [volume_fractions(label, schema) for label in labels]
    volumes = [float((label > 0).sum() * np.prod(spacing)) for label in labels]
    median = {name: [row[name]["median"] for row in medians] for name in schema.names[1:]}
    depth, height, width = sizes.pop()
    return Ranges(
        schema.name,
        preset,
        (depth, height, width),
        spacing,
        len(images),
        {
            name: _range([float(v) for v in values])
            for name, values in median.items()
            if not any(isinstance(v, str) for v in values)
        },
        {name: _range([row[name] for row in fractions]) for name in fractions[0]},
        _range(volumes),
    )


def write_ranges(dataset_dir: str, output_dir: str, preset: str) -> Path:
    """Measure the training scans of a pair set; a gate finds the file beside ``model.pt``.

    Args:
        dataset_dir: pair set of real scans, or phantoms.
        output_dir: folder of the segmenter's weights; gets ``model_ranges.json``.
        preset: size that the scans were prepared for.

    Returns:
        The file.

    Raises:
        MedpairError: for too few scans, or scans of different sizes or spacings.
    """
    data = load_arrays(dataset_dir, "training")
    if data.spacing is None:
        raise MedpairError(
            f"{dataset_dir}: its spacing differs from scan to scan, wanted one; prepare it with "
            "--spacing"
        )
    images = [np.clip(image, 0, 1) for image in data.images]
    found = measure_ranges(images, data.labels, data.schema, data.spacing, preset)
    path = Path(output_dir) / "model_ranges.json"
    write_json(path, {"format": FORMAT, **asdict(found)})
    return path


def ranges_path(weights: str | Path) -> Path:
    """Return where the ranges of a segmenter's training scans lie: beside its weights."""
    return Path(weights).with_name(f"{Path(weights).stem}_ranges.json")


def read_ranges(path: str | Path) -> Ranges:
    """Read ranges that `write_ranges` wrote.

    Raises:
        MedpairError: if the file is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise MedpairError(
            f"{path}: no ranges of real scans for the gate; run the bundle's configs/ranges.yaml "
            "on the scans, or use --no-gate"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise KeyError("format")
        d, h, w = content.pop("size")
        x, y, z = content.pop("spacing")
        return Ranges(size=(d, h, w), spacing=(x, y, z), **content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedpairError(
            f"{path}: no ranges that medpair wrote ({error}); run configs/ranges.yaml again"
        ) from error


def _range(values: Sequence[float]) -> Range:
    low, high = (float(f"{value:.4g}") for value in (min(values), max(values)))
    return low, high
