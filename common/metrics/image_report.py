"""The card of an image generator: all that can be said about its images, in one report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.data.datasets import PairSet, load_arrays
from common.data.labels import LabelSchema
from common.errors import MedpairError
from common.metrics.alignment import Segment, alignment
from common.metrics.consistency import consistency
from common.metrics.detail import detail, detail_ratio
from common.metrics.extractors import SliceExtractor
from common.metrics.features import feature_distance, slice_features
from common.metrics.fidelity import evaluate_images
from common.metrics.floor import check_persons
from common.metrics.intensity import intensity_distance
from common.metrics.perceptual import SliceDistance, paired_lpips
from common.metrics.values import Value, mean_of, not_computed

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]

UNPAIRED = not_computed("there are no real scans of these masks")
NO_EXTRACTOR = not_computed("no feature extractor is given")
NO_SEGMENTER = not_computed("no segmenter is given")
NO_LPIPS = not_computed("LPIPS is not asked for")


@dataclass(frozen=True)
class ImageSet:
    """Images with their masks.

    Attributes:
        ids: names of the pairs.
        images: (D, H, W) images, normalised intensities (about 0..1).
        labels: (D, H, W) uint8 label maps.
        persons: whose anatomy each mask shows; for generated masks any name of their own.
    """

    ids: Sequence[str]
    images: Sequence[Image]
    labels: Sequence[LabelMap]
    persons: Sequence[str]

    def __post_init__(self) -> None:
        if not self.images or not len(self.ids) == len(self.images) == len(self.labels):
            raise MedpairError(
                f"images: {len(self.images)} with {len(self.labels)} masks and {len(self.ids)} "
                "ids, at least 1 of each and one number wanted; give a mask and an id per image"
            )
        check_persons(self.persons, len(self.images), "images")


def read_images(dataset_dir: str | Path, split: str | None = None) -> ImageSet:
    """Read the pairs of a pair set, images clipped to [0, 1].

    Args:
        dataset_dir: a pair set's folder, or phantoms, see `load_arrays`.
        split: "training" or "validation"; None for both.

    Raises:
        MedpairError: where there is no pair set or the split is empty.
    """
    data = load_arrays(dataset_dir, split)
    persons = list(data.ids)
    if not str(dataset_dir).startswith("phantom:"):
        pairset = PairSet.open(dataset_dir)
        persons = [pairset.person(name) for name in data.ids]
    images = [np.clip(image, 0, 1) for image in data.images]
    return ImageSet(list(data.ids), images, data.labels, persons)


def scans_of(generated: ImageSet, real: ImageSet) -> list[Image] | None:
    """Return the real scan of every generated image, None unless all masks are those of scans.

    Args:
        generated: images with their masks.
        real: real scans; one of equal id and mask is the scan of an image.
    """
    known = {name: index for index, name in enumerate(real.ids)}
    rows = [known.get(name) for name in generated.ids]
    for row, label in zip(rows, generated.labels, strict=True):
        if row is None or not np.array_equal(real.labels[row], label):
            return None
    return [real.images[row] for row in rows if row is not None]


def judge_images(
    generated: ImageSet,
    held_out: ImageSet,
    schema: LabelSchema,
    *,
    real: Sequence[Image] | None = None,
    training: ImageSet | None = None,
    extractors: Sequence[SliceExtractor] = (),
    segment: Segment | None = None,
    lpips: SliceDistance | str = NO_LPIPS,
    repeats: int = 20,
    seed: int = 0,
) -> dict[str, object]:
    """Judge generated images by everything that needs no training.

    Args:
        generated: the images and the masks that they were made for.
        held_out: real scans that neither generator nor segmenter has seen.
        schema: the schema of all masks.
        real: the real scan of each generated image's mask, where there is one.
        training: the generator's training scans; with them, the feature distances are those to the
            training scans and the held-out scans give the floor (see `feature_distance`).
        extractors: feature extractors, each with its name.
        segment: a segmenter trained on real scans, see `alignment`.
        lpips: from `open_lpips`.
        repeats: number of random splits of the real persons for the floors.
        seed: seed of the splits.

    Returns:
        Ready for JSON: ``n``, ``n_held_out``, ``n_training``; ``fidelity`` (`evaluate_images`,
        which holds the intensity errors per label) and ``lpips`` (mean per view) where `real` is
        given; ``detail_ratio`` to `real` or else to the held-out scans; ``intensity``
        (`intensity_distance` to all real scans); ``consistency`` to the held-out scans;
        ``alignment``; ``features``: `feature_distance` by extractor. What cannot be computed is
        text that says why.

    Raises:
        MedpairError: if numbers or shapes do not match.
    """
    made, masks = generated.images, generated.labels
    kept, kept_masks = held_out.images, held_out.labels
    everybody = [held_out] if training is None else [held_out, training]
    report: dict[str, object] = {
        "n": len(made),
        "n_held_out": len(kept),
        "n_training": len(training.images) if training else None,
        "fidelity": UNPAIRED,
        "lpips": UNPAIRED,
        "detail_ratio": _detail(made, real, kept),
        "intensity": _intensity(generated, everybody, schema, repeats, seed),
        "consistency": consistency(made, masks, kept, kept_masks),
        "alignment": NO_SEGMENTER,
        "features": NO_EXTRACTOR,
    }
    if real is not None:
        report["fidelity"] = evaluate_images(made, real, masks, generated.ids, schema)
        report["lpips"] = mean_lpips(lpips, generated, real, schema)
    if segment is not None:
        report["alignment"] = alignment(segment, made, masks, kept, kept_masks, schema)
    if extractors:
        report["features"] = {
            extractor.name: _features(extractor, everybody, generated, schema, repeats, seed)
            for extractor in extractors
        }
    return report


def mean_lpips(
    metric: SliceDistance | str, generated: ImageSet, real: Sequence[Image], schema: LabelSchema
) -> dict[str, Value]:
    """Return the mean LPIPS of generated images to the real scans of their masks, per view.

    Args:
        metric: from `open_lpips`; a reason is passed on.
        generated: the images and their masks.
        real: the real scan of each.
        schema: the schema of all masks.
    """
    rows = [
        paired_lpips(metric, image, scan, label, schema.slice_axis)
        for image, scan, label in zip(generated.images, real, generated.labels, strict=True)
    ]
    first = {view: str(value).removeprefix("not computed: ") for view, value in rows[0].items()}
    return {view: mean_of((row[view] for row in rows), first[view]) for view in first}


def _detail(
    generated: Sequence[Image], real: Sequence[Image] | None, held_out: Sequence[Image]
) -> Value:
    flat = "the real images are flat"
    if real is not None:
        return mean_of((detail_ratio(i, r) for i, r in zip(generated, real, strict=True)), flat)
    wanted = float(np.mean([detail(image) for image in held_out]))
    made = float(np.mean([detail(image) for image in generated]))
    return made / wanted if wanted else not_computed(flat)


def _intensity(
    generated: ImageSet,
    real: Sequence[ImageSet],
    schema: LabelSchema,
    repeats: int,
    seed: int,
) -> dict[str, dict[str, Value]]:
    pairs = [p for s in real for p in zip(s.images, s.labels, strict=True)]
    return intensity_distance(
        list(zip(generated.images, generated.labels, strict=True)),
        pairs,
        [person for s in real for person in s.persons],
        schema,
        generated_persons=generated.persons,
        repeats=repeats,
        seed=seed,
    )


def _features(
    extractor: SliceExtractor,
    real: Sequence[ImageSet],
    generated: ImageSet,
    schema: LabelSchema,
    repeats: int,
    seed: int,
) -> dict[str, object]:
    made, *scans = (
        slice_features(extractor, s.images, s.labels, schema.slice_axis, s.persons)
        for s in (generated, *real)
    )
    return feature_distance(made, *scans, repeats=repeats, seed=seed)
