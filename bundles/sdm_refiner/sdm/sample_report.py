"""What a run of the baseline DDPM leaves: slices, pictures, and how far they are from real ones.

N slices, C image channels, a, b slice size, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.data.checks import check_schema
from common.data.datasets import Arrays
from common.data.pictures import Picture, grey, save_rows, three_planes
from common.data.views import view_names
from common.io.atomic import atomic_path, write_json
from common.metrics.extractors import SliceNetwork
from common.metrics.floor import ONE_PERSON, against_floor, person_splits, without_floor
from common.metrics.image_report import read_images
from common.metrics.set_distances import frechet_distance
from common.metrics.values import Value, not_computed
from sdm.sampling import SliceSampling
from sdm.views import VIEWS

Floats = npt.NDArray[np.float64]
Slices = npt.NDArray[np.float32]
MOST_SHOWN, PER_ROW = 64, 8
_FEW = "a set has fewer than 2 slices"


def write_samples(
    sampling: SliceSampling,
    data: Arrays,
    dataset_dir: str,
    split: str | None,
    output_dir: str,
    schema: str,
    slices_per_view: int,
    extractor: SliceNetwork | str,
    settings: Mapping[str, Any],
) -> None:
    """Draw slices of every view that has a network, and write them with a report.

    ``samples.npz`` holds per view an array (N, C, a, b), float32 in [0, 1]; ``<view>.png`` shows
    the first of them; ``samples.json`` says how they were made and, per view, how far they are from
    real slices, see `frechet_to_real`. A baseline without volumes has no further measure.

    Args:
        sampling: how they are drawn.
        data: real scans, which set the size of the slices.
        dataset_dir: the pair set that they come from.
        split: their split; None for both.
        output_dir: gets the files.
        schema: label schema that the network was trained for.
        slices_per_view: N, 1 or more.
        extractor: of the features of slices, or the reason why there is none.
        settings: what else ``samples.json`` shall say.

    Raises:
        MedpairError: if the data are of another schema, or as `SliceSampling.draw`.

    Source: MedGen3D table 1, row DDPM.
    """
    check_schema(data.schema, schema, data.schema.num_classes)
    folder, axes = Path(output_dir), view_names(data.schema.slice_axis)
    made, distances = {}, {}
    for view in sampling.network.views:
        axis = axes.index(view)
        made[view] = sampling.draw(view, slices_per_view, slice_size(data, axis)).numpy()
        distances[view] = frechet_to_real(made[view], dataset_dir, split, axis, extractor)
    with atomic_path(folder / "samples.npz") as temporary:
        np.savez(temporary, allow_pickle=False, **made)
    for view, slices in made.items():
        rows = picture_rows(slices, axes.index(view), data.schema.slice_axis)
        save_rows(rows, folder / f"{view}.png")
    report = {
        **settings,
        "slices": {view: list(slices.shape) for view, slices in made.items()},
        "extractor": extractor if isinstance(extractor, str) else extractor.name,
        "frechet_distance": distances,
    }
    write_json(folder / "samples.json", report)


def slice_size(data: Arrays, axis: int) -> tuple[int, ...]:
    """Return the size (a, b) of slices normal to an axis, that of the largest volume."""
    largest = [max(label.shape[i] for label in data.labels) for i in range(3)]
    return tuple(n for i, n in enumerate(largest) if i != axis)


def picture_rows(slices_NCab: Slices, axis: int, slice_axis: str) -> list[list[Picture]]:
    """Return rows of pictures of the first slices, upright.

    Args:
        slices_NCab: values in [0, 1]; the first channel is shown.
        axis: that they are normal to, 0 for D, 1 for H, 2 for W.
        slice_axis: of the label schema, "AP" or "SI".
    """
    number = VIEWS.index(view_names(slice_axis)[axis])
    planes = [
        three_planes(np.expand_dims(image[0], axis), slice_axis)[number]
        for image in slices_NCab[:MOST_SHOWN]
    ]
    shown = [grey(plane.astype(np.float32)) for plane in planes]
    return [shown[i : i + PER_ROW] for i in range(0, len(shown), PER_ROW)]


def frechet_to_real(
    made_NCab: Slices,
    dataset_dir: str,
    split: str | None,
    axis: int,
    extractor: SliceNetwork | str,
) -> dict[str, Value]:
    """Return the Frechet distance of drawn slices to real ones of a view, beside a floor.

    Real slices without foreground count too: the networks are trained on them.

    Args:
        made_NCab: values in [0, 1]; the first channel counts.
        dataset_dir: the pair set of real scans; their persons are split into random halves.
        split: their split; None for both.
        axis: that the slices are normal to.
        extractor: of features, or the reason why there is none.

    Returns:
        ``distance``, ``floor``, ``floor_p95`` and ``ratio``, see `common.metrics.floor`; and
        ``slices``, the number on each side.
    """
    if isinstance(extractor, str):
        return without_floor(extractor, extractor)
    real = read_images(dataset_dir, split)
    rows = [extractor.of_slices(np.moveaxis(image, axis, 0)) for image in real.images]
    return split_distances(extractor.of_slices(made_NCab[:, 0]), rows, real.persons)


def split_distances(
    made_NF: Floats,
    real: Sequence[Floats],
    persons: Sequence[str],
    repeats: int = 20,
    seed: int = 0,
) -> dict[str, Value]:
    """Compare drawn slices and one half of the real persons with the other half.

    Args:
        made_NF: features of drawn slices.
        real: features of the slices of each real scan.
        persons: the person of each scan.
        repeats: number of random splits.
        seed: of the splits.

    Returns:
        As `frechet_to_real`.
    """
    splits = person_splits(len(real), persons, repeats, seed)
    if not splits:
        return without_floor(ONE_PERSON)
    rng = np.random.default_rng(seed)
    halves = [
        [rng.permutation(np.concatenate([real[i] for i in half])) for half in split[1:]]
        for split in splits
    ]
    size = min(len(made_NF), *(len(first) for first, _ in halves))
    if min(size, *(len(second) for _, second in halves)) < 2:
        return without_floor(not_computed(_FEW), not_computed(_FEW))
    triples = [(rng.permutation(made_NF)[:size], first[:size], second) for first, second in halves]
    return against_floor(frechet_distance, triples, _FEW) | {"slices": float(size)}
