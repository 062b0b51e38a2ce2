"""The parts of a judge's report, each of the pairs that could be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.data.anatomy import anatomy_report
from common.errors import MedpairError
from common.metrics.alignment import Segment, alignment
from common.metrics.consistency import consistency, mean_profiles, seams
from common.metrics.detail import detail
from common.metrics.diversity import Pairs, diversity, pairwise_lpips, pairwise_ms_ssim
from common.metrics.extractors import SliceExtractor
from common.metrics.features import (
    SliceFeatures,
    feature_distance,
    slice_features,
    standardised,
)
from common.metrics.fidelity import evaluate_images
from common.metrics.image_report import UNPAIRED, ImageSet, mean_lpips
from common.metrics.intensity import intensity_distance, intensity_ranges
from common.metrics.measures import MEASURES
from common.metrics.memorization import novelty
from common.metrics.perceptual import SliceDistance
from common.metrics.radiomics import SliceRadiomics
from common.metrics.realism import mask_realism
from common.metrics.values import Value, mean_of, not_computed
from common.metrics.voxels import voxel_distance
from segeval.judged import Judged

NAMES = (
    "fidelity",
    "diversity",
    "alignment",
    "intensity",
    "consistency",
    "detail_ratio",
    "masks",
    "paired",
)


@dataclass(frozen=True)
class Draws:
    """What is drawn at random: splits of real persons, pairs of volumes.

    Attributes:
        repeats: number of splits.
        pairs: most pairs per set.
        seed: of both.
    """

    repeats: int
    pairs: int
    seed: int


def guarded(part: Callable[[], object]) -> object:
    """Return what a part finds, or "not computed: ..." where its input does not allow it."""
    try:
        return part()
    except MedpairError as error:
        return not_computed(" ".join(str(error).split()))


def fidelity(
    judged: Judged, extractors: Mapping[str, SliceExtractor | str], draws: Draws
) -> dict[str, object]:
    """Return FID, KID, MMD, precision and recall by extractor, and the MMD of voxels.

    Args:
        judged: both sets.
        extractors: by name; a reason is passed on.
        draws: splits.
    """
    found: dict[str, object] = {}
    for name, extractor in extractors.items():
        found[name] = guarded(lambda e=extractor: _features(judged, e, draws))  # type: ignore[misc]
    return found | {"voxels": guarded(lambda: _voxels(judged, draws))}


def _features(judged: Judged, extractor: SliceExtractor | str, draws: Draws) -> object:
    if isinstance(extractor, str):
        return extractor
    sets = tuple(_of(s, extractor, judged) for s in (_made(judged), *judged.compared))
    if isinstance(extractor, SliceRadiomics):
        sets = standardised(sets, sets[-1])
    return feature_distance(*sets, measures=tuple(MEASURES), repeats=draws.repeats, seed=draws.seed)


def _of(images: ImageSet, extractor: SliceExtractor, judged: Judged) -> SliceFeatures:
    axis = judged.schema.slice_axis
    return slice_features(extractor, images.images, images.labels, axis, images.persons)


def _voxels(judged: Judged, draws: Draws) -> dict[str, object]:
    sets = (_made(judged), *judged.compared)
    return voxel_distance(
        [image for s in sets for image in s.images],
        [person for s in sets for person in s.persons],
        judged.splits(draws.repeats, draws.seed),
    )


def diversities(judged: Judged, lpips: SliceDistance | str, draws: Draws) -> dict[str, object]:
    """Return how alike the images of each set are, by MS-SSIM (1: equal) and LPIPS (0: equal).

    Args:
        judged: both sets.
        lpips: from `open_lpips`; a reason is passed on.
        draws: pairs.
    """

    def ms_ssim(real: bool, pairs: Pairs) -> list[Value]:
        return pairwise_ms_ssim((_real if real else _made)(judged).images, pairs)

    def perceptual(real: bool, pairs: Pairs) -> list[Value]:
        assert not isinstance(lpips, str)
        chosen = (_real if real else _made)(judged)
        axis = judged.schema.slice_axis
        return pairwise_lpips(lpips, chosen.images, chosen.labels, pairs, axis)

    def compare(measure: Callable[[bool, Pairs], list[Value]]) -> object:
        persons = _made(judged).persons, _real(judged).persons
        return diversity(
            measure, *persons, pairs=draws.pairs, repeats=draws.repeats, seed=draws.seed
        )

    return {
        "ms_ssim": guarded(lambda: compare(ms_ssim)),
        "lpips": lpips if isinstance(lpips, str) else guarded(lambda: compare(perceptual)),
    }


def aligned(judged: Judged, segment: Segment | str) -> object:
    """Return Dice and HD95 of a real-trained segmenter over those on kept-back scans.

    Args:
        judged: both sets.
        segment: the segmenter; a reason is passed on.
    """
    made, kept = _made(judged), judged.kept_back
    if isinstance(segment, str):
        return segment
    if kept is None:
        return not_computed("N=0 kept-back real scans; the segmenter may have seen all others")
    return alignment(
        segment,
        made.images,
        made.labels,
        kept.images,
        kept.labels,
        judged.schema,
        judged.spacing,
    )


def intensities(judged: Judged, draws: Draws) -> dict[str, object]:
    """Return where the medians of labels lie beside the real range, and their distance.

    Args:
        judged: both sets.
        draws: splits.
    """
    made, real = _made(judged), _real(judged)
    pairs = [list(zip(s.images, s.labels, strict=True)) for s in (made, real)]
    return {
        "range": guarded(lambda: intensity_ranges(pairs[0], pairs[1], judged.schema)),
        "distance": guarded(
            lambda: intensity_distance(
                pairs[0],
                pairs[1],
                real.persons,
                judged.schema,
                generated_persons=made.persons,
                repeats=draws.repeats,
                seed=draws.seed,
            )
        ),
    }


def consistencies(judged: Judged) -> dict[str, object]:
    """Return steps from slice to slice beside those of real scans, and at window joints."""
    made, real = _made(judged), _real(judged)
    return {
        "relative": guarded(
            lambda: consistency(made.images, made.labels, real.images, real.labels)
        ),
        "profiles": {
            name: guarded(lambda s=s: mean_profiles(s.images, s.labels))  # type: ignore[misc]
            for name, s in (("synthetic", made), ("real", real))
        },
        "seams": guarded(lambda: seams(made.images, made.labels, judged.joints)),
    }


def sharpness(judged: Judged) -> Value:
    """Return the mean detail of generated images over that of real scans; below 1: blurred."""
    made, real = (
        mean_of([detail(image) for image in s.images]) for s in (_made(judged), _real(judged))
    )
    assert not isinstance(made, str)
    assert not isinstance(real, str)
    return made / real if real else not_computed("the real images are flat")


def masks(judged: Judged, draws: Draws) -> dict[str, object]:
    """Return realism, anatomical rules and novelty of the generated masks, by MC-DPM's measures.

    Args:
        judged: both sets.
        draws: splits.
    """
    made, real, schema = _made(judged), _real(judged), judged.schema

    def realism() -> object:
        return mask_realism(
            made.labels,
            real.labels,
            real.persons,
            schema,
            judged.spacing,
            repeats=draws.repeats,
            seed=draws.seed,
        )

    def new(mirror: bool) -> dict[str, Any]:
        seen = judged.trained_on
        return novelty(
            made.labels, real.labels, real.persons, schema, trained_on=seen, mirror=mirror
        )

    return {
        "realism": guarded(realism),
        "anatomy": guarded(lambda: anatomy_report(made.labels, schema)),
        "anatomy_real": guarded(lambda: anatomy_report(real.labels, schema)),
        "novelty": guarded(lambda: new(False)),
        "novelty_mirrored": guarded(lambda: new(True)),
    }


def paired(judged: Judged, lpips: SliceDistance | str) -> object:
    """Return MS-SSIM, PSNR and LPIPS of images made for masks of real scans, with those scans.

    Args:
        judged: both sets.
        lpips: from `open_lpips`; a reason is passed on.
    """
    rows = judged.scans()
    if not rows:
        return UNPAIRED
    made, real = _made(judged), _real(judged)
    chosen = ImageSet(
        [made.ids[i] for i, _ in rows],
        [made.images[i] for i, _ in rows],
        [made.labels[i] for i, _ in rows],
        [made.persons[i] for i, _ in rows],
    )
    scans = [real.images[j] for _, j in rows]
    return {
        "fidelity": evaluate_images(chosen.images, scans, chosen.labels, chosen.ids, judged.schema),
        "lpips": mean_lpips(lpips, chosen, scans, judged.schema),
    }


def _made(judged: Judged) -> ImageSet:
    assert judged.synthetic is not None
    return judged.synthetic


def _real(judged: Judged) -> ImageSet:
    assert judged.real is not None
    return judged.real
