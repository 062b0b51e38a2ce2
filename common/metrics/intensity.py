"""Image intensities inside each label: medians, spreads, their order, their error."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from common.data.labels import LabelSchema
from common.errors import MedpairError
from common.metrics.floor import Split, check_persons, person_splits, values_against_floor
from common.metrics.values import Value, not_computed

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]

NO_ORDER = not_computed("the schema names no intensity_order")


def label_intensity(
    image: Image, label: LabelMap, schema: LabelSchema
) -> dict[str, dict[str, Value]]:
    """Return the median and the interquartile range of an image inside each label.

    Args:
        image: (D, H, W) image in any unit.
        label: (D, H, W) uint8 label map.
        schema: its schema.

    Returns:
        Per label ``median`` and ``iqr`` in the unit of the image; a reason for a label that is not
        there.

    Raises:
        MedpairError: if the shapes differ.
    """
    _check_shapes(image, label)
    return {item.name: _spread(image[label == item.id], item.name) for item in schema.labels}


def intensity_error(
    generated: Image, real: Image, label: LabelMap, schema: LabelSchema
) -> dict[str, dict[str, Value]]:
    """Return how far the intensity statistics of a generated image lie from those of the real scan.

    Args:
        generated: (D, H, W) image made for the real label map.
        real: (D, H, W) real scan in the same unit.
        label: (D, H, W) uint8 label map of the real scan.
        schema: its schema.

    Returns:
        Per label the absolute error of ``median`` and ``iqr`` in the unit of the images.

    Raises:
        MedpairError: if the shapes differ.
    """
    made, wanted = label_intensity(generated, label, schema), label_intensity(real, label, schema)
    return {
        name: {key: _difference(made[name][key], wanted[name][key]) for key in wanted[name]}
        for name in wanted
    }


def intensity_distance(
    generated: Sequence[tuple[Image, LabelMap]],
    real: Sequence[tuple[Image, LabelMap]],
    persons: Sequence[str],
    schema: LabelSchema,
    *,
    generated_persons: Sequence[str] | None = None,
    repeats: int = 50,
    seed: int = 0,
) -> dict[str, dict[str, Value]]:
    """Compare the medians of each label in generated images with those in real scans, unpaired.

    Args:
        generated: (image, label map) pairs, (D, H, W).
        real: real pairs in the same unit.
        persons: the person of each real pair.
        schema: the schema of all maps.
        generated_persons: whose anatomy the generated images show, see `person_splits`.
        repeats: number of random splits of the real persons for the floor.
        seed: seed of the splits.

    Returns:
        Per label the Wasserstein-1 ``distance`` between the medians of generated and real images in
        the unit of the images, ``floor``, ``floor_p95`` and ``ratio`` as in `mask_realism`, and
        ``outside``: the share of generated images whose median lies outside the real range.

    Raises:
        MedpairError: if shapes differ or the persons do not match the real pairs.
    """
    check_persons(persons, len(real), "images")
    splits = person_splits(len(generated), persons, repeats, seed, generated_persons)
    made, wanted = (
        [label_intensity(image, label, schema) for image, label in pairs]
        for pairs in (generated, real)
    )
    return {
        item.name: _distribution(_medians(made, item.name), _medians(wanted, item.name), splits)
        for item in schema.labels
    }


def _medians(rows: Sequence[dict[str, dict[str, Value]]], name: str) -> npt.NDArray[np.float64]:
    values = [row[name]["median"] for row in rows]
    return np.array([np.nan if isinstance(v, str) else v for v in values], np.float64)


def _distribution(
    made: npt.NDArray[np.float64], real: npt.NDArray[np.float64], splits: Sequence[Split]
) -> dict[str, Value]:
    absent = "the label is absent from every mask of one of the sets"
    found = values_against_floor(made, real, splits, absent)
    known = made[np.isfinite(made)]
    if not known.size or not np.isfinite(real).any():
        return {**found, "outside": not_computed(absent)}
    outside = (known < np.nanmin(real)) | (known > np.nanmax(real))
    return {**found, "outside": float(outside.mean())}


def intensity_ranges(
    generated: Sequence[tuple[Image, LabelMap]],
    real: Sequence[tuple[Image, LabelMap]],
    schema: LabelSchema,
) -> dict[str, object]:
    """Say which generated pairs have the median of each label within the range of real scans.

    Args:
        generated: (image, label map) pairs, (D, H, W).
        real: real pairs in the same unit.
        schema: the schema of all maps.

    Returns:
        ``labels``: per label ``low`` and ``high`` of the real medians, ``inside``: the share of
        generated pairs between them, ``n`` (generated pairs that hold the label) and ``n_real``;
        ``all_inside``: the share of pairs that are inside for every label that they hold and that
        has a range.
    """
    made, wanted = (
        [label_intensity(image, label, schema) for image, label in pairs]
        for pairs in (generated, real)
    )
    columns = {item.name: _medians(made, item.name) for item in schema.labels}
    limits = {item.name: _limits(_medians(wanted, item.name)) for item in schema.labels}
    inside = {name: _inside(column, limits[name]) for name, column in columns.items()}
    judged = [np.isfinite(row) for row in inside.values()]
    held = np.any(judged, axis=0)
    kept = np.all([(row != 0) for row in inside.values()], axis=0)
    return {
        "labels": {
            name: _range_report(columns[name], limits[name], inside[name]) for name in columns
        },
        "all_inside": float(kept[held].mean())
        if held.any()
        else not_computed("no generated pair holds a label that a real scan holds"),
    }


def _limits(medians: npt.NDArray[np.float64]) -> tuple[float, float, int]:
    known = medians[np.isfinite(medians)]
    return (float(known.min()), float(known.max()), known.size) if known.size else (0.0, 0.0, 0)


def _inside(
    medians: npt.NDArray[np.float64], limits: tuple[float, float, int]
) -> npt.NDArray[np.float64]:
    """Return 1 and 0 for inside and outside, NaN where there is no median or no range."""
    low, high, count = limits
    inside = ((medians >= low) & (medians <= high)).astype(np.float64)
    inside[~np.isfinite(medians)] = np.nan
    return inside if count else np.full_like(inside, np.nan)


def _range_report(
    medians: npt.NDArray[np.float64],
    limits: tuple[float, float, int],
    inside: npt.NDArray[np.float64],
) -> dict[str, Value]:
    low, high, count = limits
    held = int(np.isfinite(medians).sum())
    counts: dict[str, Value] = {"n": held, "n_real": count}
    if not count:
        return dict.fromkeys(("low", "high", "inside"), not_computed("N=0 real scans")) | counts
    share = float(np.nanmean(inside)) if held else not_computed("N=0 generated pairs")
    return {"low": low, "high": high, "inside": share} | counts


def intensity_order(
    image: Image, label: LabelMap, schema: LabelSchema, order: Sequence[str] | None = None
) -> dict[str, object]:
    """Check that the medians of some labels rise in a known order.

    Args:
        image: (D, H, W) image in any unit.
        label: (D, H, W) uint8 label map.
        schema: its schema.
        order: label names by rising median; the schema's `intensity_order` by default.

    Returns:
        ``order``; ``medians``; ``passed``: True, False, or a reason where a label is absent or no
        order is known.

    Raises:
        MedpairError: if the shapes differ or the order names an unknown label.
    """
    names = tuple(schema.intensity_order if order is None else order)
    for name in names:
        schema.id_of(name)
    statistics = label_intensity(image, label, schema)
    medians = {name: statistics[name]["median"] for name in names}
    return {"order": list(names), "medians": medians, "passed": _rises(list(medians.values()))}


def _rises(medians: Sequence[Value]) -> bool | str:
    if len(medians) < 2:
        return NO_ORDER
    numbers = [float(m) for m in medians if not isinstance(m, str)]
    if len(numbers) < len(medians):
        return not_computed("a label of the order is absent")
    return all(low < high for low, high in pairwise(numbers))


def _spread(values: Image, name: str) -> dict[str, Value]:
    if not values.size:
        return dict.fromkeys(("median", "iqr"), not_computed(f"label {name} is absent"))
    low, middle, high = np.percentile(values.astype(np.float64), (25, 50, 75))
    return {"median": float(middle), "iqr": float(high - low)}


def _difference(a: Value, b: Value) -> Value:
    if isinstance(a, str):
        return a
    return b if isinstance(b, str) else abs(a - b)


def _check_shapes(image: Image, label: LabelMap) -> None:
    if image.shape != label.shape:
        raise MedpairError(
            f"image: shape {image.shape}, that of its label map {label.shape} wanted; pair them on "
            "one grid"
        )
