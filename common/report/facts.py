"""What a report says of each pair: numbers of the manifest, and histograms of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.data.datasets import Pair, PairSet
from common.data.labels import LabelSchema
from common.io.manifest import Record
from common.io.nifti import read_geometry
from common.metrics.realism import scored_labels
from common.report.origin import gate_of, origin_of
from common.report.seconds import seconds_of

BINS = 50
Facts = dict[str, Any]


def facts_of(
    pairs: PairSet, record: Record, log: list[Mapping[str, Any]], voxel_ml: float | None
) -> Facts:
    """Return the facts of a pair, JSON-ready.

    Args:
        pairs: its pair set.
        record: its manifest line.
        log: of the pair set, see `common.report.seconds.read_log`.
        voxel_ml: volume of a voxel.

    Returns:
        ``volumes``: ml by label, those that are present; ``shares``: of all labelled voxels, all
        labels but the container; the rest is named as in the manifest.
    """
    kind, details = origin_of(record, pairs.header)
    voxels = record["voxels"]
    labelled = sum(voxels.values())
    scored = [label.name for label in scored_labels(pairs.schema)]
    volumes = {} if voxel_ml is None else {k: n * voxel_ml for k, n in voxels.items() if n}
    return {
        "id": record["id"],
        "split": record["split"],
        "person": record["person"],
        "kind": kind,
        "details": details,
        "seed": record.get("noise_seed", record.get("seed")),
        "volume": record.get("volume"),
        "seconds": seconds_of(record, log),
        "gate": gate_of(record),
        "shape": record["shape"],
        "volumes": {name: _digits(ml) for name, ml in volumes.items()},
        "total_ml": None if voxel_ml is None else _digits(labelled * voxel_ml),
        "absent": [name for name, count in voxels.items() if not count],
        "shares": {name: _digits(voxels[name] / max(labelled, 1)) for name in scored},
    }


def voxel_ml(pairs: PairSet, identity: str) -> float:
    """Return the volume of a voxel in ml, from the set or, where it differs, from the file.

    Raises:
        MedpairError: for a damaged file.
    """
    if pairs.spacing is not None:
        return float(np.prod(pairs.spacing)) / 1000
    _, affine = read_geometry(pairs.paths(identity)[1])
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000


def histograms(pair: Pair, schema: LabelSchema) -> dict[str, list[int]]:
    """Return counts of intensities 0..1 in `BINS` equal bins, by label; beyond counts at the end.

    Args:
        pair: image and mask.
        schema: of the mask.

    Returns:
        Counts of the labels that are present.
    """
    bins = np.clip((pair.image * BINS).astype(np.int64), 0, BINS - 1)
    joint = np.bincount((pair.label.astype(np.int64) * BINS + bins).ravel())
    counts: npt.NDArray[np.int64] = np.zeros(schema.num_classes * BINS, np.int64)
    counts[: len(joint)] = joint
    rows = counts.reshape(-1, BINS)
    return {name: rows[i].tolist() for i, name in enumerate(schema.names) if i and rows[i].any()}


def _digits(value: float) -> float:
    return float(f"{value:.5g}")
