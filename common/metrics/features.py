"""Distances between sets of images in a feature space, beside a real-vs-real floor.

N samples (slices or volumes), F features.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import MedpairError
from common.metrics.extractors import SliceExtractor
from common.metrics.floor import (
    ONE_PERSON,
    UNBIASED,
    Split,
    against_floor,
    check_persons,
    fixed_splits,
    person_splits,
)
from common.metrics.measures import MEASURES, Measure, Sample
from common.metrics.values import Value, mean_of, not_computed

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Triple = tuple[Sample, Sample, Sample]

_FIXED = not_computed("the two real sets are fixed: there is one floor")
_FEW = "a set has fewer than 2 slices with foreground, or less than 2 persons"
_FLAT = not_computed("no feature varies in the real set")


@dataclass(frozen=True)
class SliceFeatures:
    """Features of the slices of a set of volumes.

    Attributes:
        extractor: name of what made them.
        views: per view ("A", "C", "S", or one of whole volumes) and volume an (N, F) array.
        persons: whose anatomy each volume shows; None where it is nobody's.
    """

    extractor: str
    views: Mapping[str, Sequence[Floats]]
    persons: tuple[str, ...] | None = None

    @property
    def volumes(self) -> int:
        """Number of volumes."""
        return len(next(iter(self.views.values())))


def slice_features(
    extractor: SliceExtractor,
    images: Sequence[Image],
    labels: Sequence[LabelMap],
    slice_axis: str,
    persons: Sequence[str] | None = None,
) -> SliceFeatures:
    """Extract the features of all slices that hold foreground, in three views.

    Args:
        extractor: a `MapExtractor`, a `SliceNetwork` or another.
        images: (D, H, W) images, normalised intensities (0..1, clipped).
        labels: (D, H, W) uint8 label maps.
        slice_axis: "AP" or "SI", the direction of D.
        persons: whose anatomy each image shows; None for generated masks.

    Raises:
        MedpairError: if there is no image, or numbers differ.
    """
    if not images or len(images) != len(labels):
        raise MedpairError(
            f"images: {len(images)} with {len(labels)} masks, at least 1 and as many masks wanted; "
            "give a mask per image"
        )
    if persons is not None:
        check_persons(persons, len(images), "images")
    rows = [extractor(i, m, slice_axis) for i, m in zip(images, labels, strict=True)]
    return SliceFeatures(
        extractor.name,
        {view: [row[view] for row in rows] for view in sorted(rows[0])},
        None if persons is None else tuple(persons),
    )


def standardised(
    sets: Sequence[SliceFeatures], reference: SliceFeatures
) -> tuple[SliceFeatures, ...]:
    """Give every feature mean 0 and deviation 1 in a reference set, view by view.

    Features that do not vary in the reference are left out: they have no unit.

    Args:
        sets: features of one extractor.
        reference: whose means and deviations (divisor N) are taken.
    """
    units = {view: _units(np.concatenate(rows)) for view, rows in reference.views.items()}
    return tuple(
        SliceFeatures(
            features.extractor,
            {
                view: [(v[:, units[view][2]] - units[view][0]) / units[view][1] for v in rows]
                for view, rows in features.views.items()
            },
            features.persons,
        )
        for features in sets
    )


def _units(rows_NF: Floats) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Return mean and deviation of the features that vary, and which those are."""
    if not len(rows_NF):
        return np.zeros(0), np.ones(0), np.zeros(rows_NF.shape[1], bool)
    mean, deviation = rows_NF.mean(0), rows_NF.std(0)
    varies = deviation > 1e-9 * np.maximum(np.abs(mean), 1)
    return mean[varies], deviation[varies], varies


def feature_distance(
    generated: SliceFeatures,
    real: SliceFeatures,
    reference: SliceFeatures | None = None,
    *,
    measures: Sequence[str] = ("fid", "kid"),
    repeats: int = 20,
    seed: int = 0,
) -> dict[str, object]:
    """Compare generated with real images, by FID and KID or others, view by view, beside a floor.

    Without a reference the real persons are split into random halves: the distance is that of
    generated images to the second half, the floor that of the first half to the second. Images that
    were made for the masks of real persons (``generated.persons``) stand in for the first half, so
    that nobody meets an image of the own anatomy.

    With a reference (training scans, while `real` holds kept-back ones) the distance is that of the
    generated images to the reference, the floor that of `real` to the reference.

    Both have the same numbers of volumes and slices in every split, so that the ratio of the FIDs
    is 1 for a perfect generator; a single FID falls with the number of slices and means little. KID
    and MMD have no ratio: they are unbiased, and their floor about 0. Precision and recall are
    shares: higher is better, and the floor is what kept-back real images reach.

    Args:
        generated: features of generated images.
        real: features of real images with their persons.
        reference: features of further real images, of other persons.
        measures: names in `MEASURES`.
        repeats: number of random splits.
        seed: seed of the splits.

    Returns:
        ``extractor``, ``floor`` (what it is), ``n_generated``, ``n_real``, ``n_reference``,
        ``n_compared`` (volumes per side), ``repeats``; ``views``: per view and measure
        ``distance`` (``share`` of precision and recall), ``floor``, ``floor_p95`` (``floor_p5``),
        ``ratio``; and ``slices`` (per side), ``reference_slices`` and ``features`` (width);
        ``mean``: each measure over the views.

    Raises:
        MedpairError: if the extractors differ, persons are not known, or a person of the reference
            is in another set.
    """
    _check_sets(generated, real, reference)
    assert real.persons is not None
    if reference is None:
        splits = person_splits(generated.volumes, real.persons, repeats, seed, generated.persons)
    else:
        splits = fixed_splits(generated.volumes, real.volumes, reference.volumes, repeats, seed)
    chosen = {name: MEASURES[name] for name in measures}
    by_view = {
        view: _view(
            _triples(view, generated, real, reference or real, splits, seed),
            chosen,
            fixed=reference is not None,
        )
        for view in real.views
    }
    return {
        "extractor": real.extractor,
        "floor": "random halves of the real persons" if reference is None else "two real sets",
        "n_generated": generated.volumes,
        "n_real": real.volumes,
        "n_reference": None if reference is None else reference.volumes,
        "n_compared": len(splits[0][0]) if splits else 0,
        "repeats": len(splits),
        "mean": {
            name: _mean([v[name] for v in by_view.values()], measure)
            for name, measure in chosen.items()
        },
        "views": by_view,
    }


def _check_sets(
    generated: SliceFeatures, real: SliceFeatures, reference: SliceFeatures | None
) -> None:
    given = [s for s in (generated, real, reference) if s is not None]
    names = {s.extractor for s in given}
    if len(names) != 1:
        raise MedpairError(
            f"features: made by {sorted(names)}, one extractor wanted; extract all sets with one"
        )
    if any(s.persons is None for s in given[1:]):
        raise MedpairError(
            "features: the persons of a real set are not known; give persons to slice_features"
        )
    shown = {*(generated.persons or ()), *(real.persons or ())}
    both = shown & set((reference and reference.persons) or ())
    if both:
        raise MedpairError(
            f"persons: {sorted(both)} are also in the reference set, other persons wanted; split "
            "the scans by person, or give no reference"
        )


def _triples(
    view: str,
    generated: SliceFeatures,
    real: SliceFeatures,
    other: SliceFeatures,
    splits: Sequence[Split],
    seed: int,
) -> list[Triple]:
    """Return the slices of a view per split; as many generated as real ones in all splits."""
    rng = np.random.default_rng(seed)
    drawn = [
        tuple(
            _rows(features, view, volumes, rng)
            for features, volumes in zip((generated, real, other), split, strict=True)
        )
        for split in splits
    ]
    size = min((min(len(made[0]), len(first[0])) for made, first, _ in drawn), default=0)
    return [
        ((made[0][:size], made[1][:size]), (first[0][:size], first[1][:size]), second)
        for made, first, second in drawn
    ]


def _rows(
    features: SliceFeatures, view: str, volumes: Iterable[int], rng: np.random.Generator
) -> Sample:
    """Return the slices of some volumes, shuffled; a volume of nobody's is a person of its own."""
    parts = [(features.views[view][v], v) for v in volumes]
    persons = features.persons or tuple(f"volume {v}" for v in range(features.volumes))
    names = np.array([persons[v] for rows, v in parts for _ in rows], dtype=np.str_)
    order = rng.permutation(len(names))
    return np.concatenate([rows for rows, _ in parts])[order], names[order]


def _view(
    triples: Sequence[Triple], measures: Mapping[str, Measure], *, fixed: bool
) -> dict[str, object]:
    made, _, other = (sample[0] for sample in triples[0]) if triples else (np.zeros((0, 0)),) * 3
    found: dict[str, object] = {
        "slices": len(made),
        "reference_slices": len(other),
        "features": made.shape[1],
    }
    reason = _reason(triples)
    for name, measure in measures.items():
        if reason is not None:
            found[name] = dict.fromkeys(measure.keys, reason)
            continue
        numbers = against_floor(measure.of, triples, _FEW, key=measure.key, worst=measure.worst)
        if fixed:
            numbers[f"floor_p{measure.worst}"] = _FIXED
        if measure.unbiased:
            numbers["ratio"] = UNBIASED
        found[name] = numbers
    return found


def _reason(triples: Sequence[Triple]) -> str | None:
    """Return why samples cannot be compared, None where they can."""
    if not triples:
        return ONE_PERSON
    samples = [sample for triple in triples for sample in triple]
    fewest = min(samples, key=lambda sample: (len(set(sample[1])), len(sample[1])))
    if len(set(fewest[1])) < 2:
        return not_computed(f"N={len(fewest[0])} samples of {len(set(fewest[1]))} volumes: {_FEW}")
    return None if fewest[0].shape[1] else _FLAT


def _mean(numbers: Sequence[object], measure: Measure) -> dict[str, Value]:
    """Average over the views; where no view has a number, the first reason stands."""
    known = [n for n in numbers if isinstance(n, dict)]
    values = {key: [n[key] for n in known] for key in measure.keys}
    return {key: mean_of(v, str(v[0]).removeprefix("not computed: ")) for key, v in values.items()}
