"""The scans that GEM-3D's uses start from: of a pair set, or phantoms made on the spot.

D, H, W volume size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.data.datasets import PairSet, load_arrays
from common.data.intensity import intensity_of
from common.data.labels import LabelSchema
from common.data.phantom import parse_phantom, phantom_seeds
from common.data.views import triple_to_ras
from common.errors import MedpairError

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Size = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class SourceScan:
    """A scan and whom it shows.

    Attributes:
        id: its name.
        person: who it shows.
        split: "training" or "validation".
        image: (D, H, W) normalised intensities, clipped to 0..1.
        label: (D, H, W) uint8 label map.
        affine: RAS voxel indices to mm.
    """

    id: str
    person: str
    split: str
    image: Image
    label: LabelMap
    affine: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScanSet:
    """Scans and what they share; `spacing` and `size` are None where they differ.

    `crop` is what `medpair prepare` centred them on.
    """

    name: str
    scans: tuple[SourceScan, ...]
    schema: LabelSchema
    spacing: Spacing | None
    size: Size | None
    intensity: Mapping[str, Any]
    crop: str | None = None

    def of(self, split: str) -> tuple[SourceScan, ...]:
        """Return the scans of "training" or "validation"."""
        return tuple(scan for scan in self.scans if scan.split == split)

    def scan(self, identity: str) -> SourceScan:
        """Return a scan by id.

        Raises:
            MedpairError: where there is none.
        """
        for scan in self.scans:
            if scan.id == identity:
                return scan
        raise MedpairError(
            f"{self.name}: no pair '{identity}' among {len(self.scans)}; see manifest.jsonl"
        )


def open_scans(dataset_dir: str | Path, schema: str | None = None) -> ScanSet:
    """Read a pair set, or make the phantoms of "phantom:<schema>:<DxHxW>:<n>".

    Args:
        dataset_dir: a pair set's folder, or phantoms.
        schema: name of the label schema that is wanted.

    Raises:
        MedpairError: where there is no pair set, it is empty, or of another schema.
    """
    found = _phantoms if str(dataset_dir).startswith("phantom:") else _pairs
    scans = found(str(dataset_dir))
    if schema is not None and scans.schema.name != schema:
        raise MedpairError(
            f"{dataset_dir}: schema {scans.schema.name!r}, the weights are for {schema!r}; use "
            "weights of this schema"
        )
    return scans


def _pairs(dataset_dir: str) -> ScanSet:
    pairs = PairSet.open(dataset_dir)
    scans = []
    for name in pairs.ids():
        pair, record = pairs.read(name), pairs.record(name)
        image = np.clip(pair.image, 0, 1)
        who = (str(record["person"]), str(record["split"]))
        scans.append(SourceScan(name, *who, image, pair.label, pair.affine))
    if not scans:
        raise MedpairError(f"{dataset_dir}: the pair set is empty; run medpair prepare on it")
    about = (pairs.schema, pairs.spacing, pairs.size, pairs.intensity)
    crop = (pairs.header.get("prepare") or {}).get("crop")
    return ScanSet(dataset_dir, tuple(scans), *about, crop)


def _phantoms(text: str) -> ScanSet:
    size, count = parse_phantom(text)[1:]
    data = load_arrays(text, None)
    assert data.spacing is not None
    affine = np.diag([*triple_to_ras(data.spacing, data.schema.slice_axis), 1.0])
    training = len(phantom_seeds(count, "training"))
    scans = tuple(
        SourceScan(
            name,
            name,
            "training" if number < training else "validation",
            np.clip(data.images[number], 0, 1),
            data.labels[number],
            affine,
        )
        for number, name in enumerate(data.ids)
    )
    return ScanSet(text, scans, data.schema, data.spacing, size, intensity_of(data.schema))
