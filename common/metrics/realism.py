"""Mask realism: shape statistics of label maps, and how far a generated set lies from a real one.

Every distance stands beside a floor, the same distance between two halves of the real set, because
a Wasserstein distance between samples of a few dozen is never zero.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from skimage.measure import label as connected

from common.data.labels import Label, LabelSchema
from common.errors import MedpairError
from common.metrics.floor import check_persons, person_splits, values_against_floor
from common.metrics.values import Value, mean_of

LabelMap = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

PER_LABEL = (
    "volume_mm3",
    "volume_fraction",
    "surface_to_volume",
    "centroid_d",
    "centroid_h",
    "centroid_w",
    "components",
)


def scored_labels(schema: LabelSchema) -> tuple[Label, ...]:
    """Return the labels that carry anatomy: all but the container."""
    return tuple(item for item in schema.labels if item.id != schema.container_id)


def volume_fractions(label: LabelMap, schema: LabelSchema) -> dict[str, float]:
    """Return each label's share of all labelled voxels, container included; 0 if not there.

    Args:
        label: (D, H, W) uint8 label map.
        schema: its schema.
    """
    voxels = np.bincount(label.ravel(), minlength=schema.num_classes)
    foreground = max(int(voxels[1:].sum()), 1)
    return {item.name: float(voxels[item.id] / foreground) for item in scored_labels(schema)}


def adjacency(label: LabelMap, num_classes: int, spacing: Sequence[float]) -> Floats:
    """Return the area of the voxel faces between any two labels.

    Faces follow the grid, so a sphere shows 1.5 times its smooth area and a box exactly its own.

    Args:
        label: (D, H, W) uint8 label map; what lies outside the volume counts as background.
        num_classes: number of ids, background included.
        spacing: voxel size (D, H, W) in mm.

    Returns:
        Symmetric (num_classes, num_classes) float64 matrix in mm^2 with a zero diagonal.
    """
    padded = np.pad(label, 1).astype(np.int64)
    area = np.zeros((num_classes, num_classes))
    for axis in range(3):
        low = np.take(padded, range(padded.shape[axis] - 1), axis=axis)
        high = np.take(padded, range(1, padded.shape[axis]), axis=axis)
        pairs = (low * num_classes + high)[low != high]
        faces = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
        area += faces * (np.prod(spacing) / spacing[axis])
    both: Floats = area + area.T
    return both


def mask_statistics(
    label: LabelMap, schema: LabelSchema, spacing: Sequence[float]
) -> dict[str, float]:
    """Describe one label map by numbers.

    Args:
        label: (D, H, W) uint8 label map.
        schema: its schema.
        spacing: voxel size (D, H, W) in mm.

    Returns:
        ``<label>.<statistic>`` for every label but the container: volume in mm^3, share of all
        labelled voxels, surface to volume in 1/mm, centroid in 0..1 of the bounding box of all
        labels, number of pieces (26 neighbours); and ``adjacency.<a>|<b>``, the share of all face
        area that lies between the two. A statistic of a label that is not there is NaN, except that
        its volume, share and pieces are 0.
    """
    area = adjacency(label, schema.num_classes, spacing)
    fractions = volume_fractions(label, schema)
    corner, extent = _bounding_box(label)
    numbers: dict[str, float] = {}
    for item in scored_labels(schema):
        shape = _shape(label == item.id, float(area[item.id].sum()), spacing, corner, extent)
        shape["volume_fraction"] = fractions[item.name]
        numbers |= {f"{item.name}.{key}": shape[key] for key in PER_LABEL}
    return numbers | _adjacency_shares(area, schema)


def _shape(
    mask: npt.NDArray[np.bool_],
    surface: float,
    spacing: Sequence[float],
    corner: Floats,
    extent: Floats,
) -> dict[str, float]:
    volume = float(mask.sum() * np.prod(spacing))
    if not volume:
        return {"volume_mm3": 0.0, "components": 0.0} | dict.fromkeys(PER_LABEL[2:6], np.nan)
    centre = (np.argwhere(mask).mean(0) + 0.5 - corner) / extent
    return {
        "volume_mm3": volume,
        "surface_to_volume": surface / volume,
        "centroid_d": float(centre[0]),
        "centroid_h": float(centre[1]),
        "centroid_w": float(centre[2]),
        "components": float(connected(mask, connectivity=3).max()),
    }


def _bounding_box(label: LabelMap) -> tuple[Floats, Floats]:
    """Return the lower corner and the size in voxels of the box around all labels."""
    spans = [
        np.flatnonzero(label.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)
    ]
    if not spans[0].size:
        return np.zeros(3), np.ones(3)
    low = np.array([span[0] for span in spans], np.float64)
    return low, np.array([span[-1] + 1 for span in spans]) - low


def _adjacency_shares(area: Floats, schema: LabelSchema) -> dict[str, float]:
    total = max(float(area.sum()) / 2, np.finfo(float).tiny)
    pairs = ((a, b) for a in range(schema.num_classes) for b in range(a + 1, schema.num_classes))
    return {
        f"adjacency.{schema.names[a]}|{schema.names[b]}": float(area[a, b]) / total
        for a, b in pairs
    }


def mask_realism(
    generated: Sequence[LabelMap],
    real: Sequence[LabelMap],
    persons: Sequence[str],
    schema: LabelSchema,
    spacing: Sequence[float],
    *,
    repeats: int = 50,
    seed: int = 0,
) -> dict[str, object]:
    """Compare the shape statistics of generated and real label maps.

    In every repeat the real persons are split into two halves of equal size. The floor is the
    Wasserstein-1 distance between the halves; the distance is that between the second half and as
    many generated maps as the first half holds. Both are means over the same splits and sample
    sizes, so their ratio is 1 for a perfect generator and is not biased by the number of maps.

    Args:
        generated: (D, H, W) uint8 label maps.
        real: (D, H, W) uint8 label maps of the same schema and spacing.
        persons: the person of each real map; no person stands in both halves.
        schema: the schema of all maps.
        spacing: voxel size (D, H, W) in mm.
        repeats: number of random splits.
        seed: seed of the splits.

    Returns:
        ``n_generated``, ``n_real``, ``n_persons``, ``n_compared`` (maps per side), ``repeats``;
        ``statistics``: per statistic ``distance``, ``floor``, ``floor_p95`` (95th percentile over
        splits), ``ratio``; ``ratio``: per kind of statistic the mean ratio.

    Raises:
        MedpairError: if a set is empty or the persons do not match the real maps.
    """
    _check_sets(generated, real, persons)
    columns = _columns([mask_statistics(m, schema, spacing) for m in generated])
    real_columns = _columns([mask_statistics(m, schema, spacing) for m in real])
    splits = person_splits(len(generated), persons, repeats, seed)
    statistics = {
        key: values_against_floor(columns[key], real_columns[key], splits, _ABSENT)
        for key in columns
    }
    return {
        "n_generated": len(generated),
        "n_real": len(real),
        "n_persons": len(set(persons)),
        "n_compared": len(splits[0][0]) if splits else 0,
        "repeats": repeats,
        "ratio": _mean_ratios(statistics),
        "statistics": statistics,
    }


def _check_sets(
    generated: Sequence[LabelMap], real: Sequence[LabelMap], persons: Sequence[str]
) -> None:
    if not generated or not real:
        raise MedpairError(
            f"masks: {len(generated)} generated and {len(real)} real, at least 1 of each wanted; "
            "give the folders of two pair sets that hold pairs"
        )
    check_persons(persons, len(real), "masks")


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


_ABSENT = "the label is absent from every mask of one of the sets"


def _mean_ratios(statistics: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
    """Average the ratios over the labels, per kind of statistic; all centroid axes are one kind."""
    kinds: dict[str, list[Value]] = {}
    for key, numbers in statistics.items():
        owner, _, name = key.partition(".")
        kind = "centroid" if name.startswith("centroid") else name
        kinds.setdefault("adjacency" if owner == "adjacency" else kind, []).append(numbers["ratio"])
    return {kind: mean_of(ratios) for kind, ratios in kinds.items()}
