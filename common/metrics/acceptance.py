"""Accept or refuse generated pairs: are they complete, in the range of real scans, no copies?"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from common.data.labels import LabelSchema
from common.errors import MedpairError
from common.metrics.intensity import NO_ORDER, intensity_order
from common.metrics.memorization import novelty
from common.metrics.realism import scored_labels, volume_fractions

LabelMap = npt.NDArray[np.uint8]
Image = npt.NDArray[np.float32]
Pair = tuple[Image, LabelMap]

MARGIN = 0.25
"""How far a volume fraction may leave the real range: 0.75 * minimum to 1.25 * maximum."""


def demo_acceptance(
    generated: Sequence[Pair],
    real_labels: Sequence[LabelMap],
    real_images: Sequence[Image],
    persons: Sequence[str],
    schema: LabelSchema,
    *,
    trained_on: Sequence[bool] | None = None,
) -> dict[str, object]:
    """Apply the acceptance rules of the demo to generated pairs.

    Four items: every label that the schema requires is in each pair; the volume fraction of each
    label lies within the range of the real scans +-25 %; the medians of the labels rise in the
    schema's order in each; no nearest-training Dice is above the maximum over real scans of
    different persons.

    Args:
        generated: (image, label) pairs, (D, H, W) float32 and uint8.
        real_labels: label maps of all real scans, on the grid of the generated ones.
        real_images: their images; they show whether the intensity order holds for real scans.
        persons: the person of each real scan.
        schema: the schema of all label maps.
        trained_on: whether the generator has seen each real scan; all of them by default. Give the
            scans that were held back too: they belong to the range and to the likeness of different
            persons, and a held-back person is itself a fair sample that must be able to pass.

    Returns:
        ``passed``, ``n``, and ``items``: per item ``passed`` (True, False, or a reason why it was
        not computed, which does not pass), ``failures`` (a line per failing pair) and its numbers.

    Raises:
        MedpairError: if a set is empty, or numbers or shapes do not match.
    """
    if not generated or not real_labels or len(real_images) != len(real_labels):
        raise MedpairError(
            f"pairs: {len(generated)} generated, {len(real_images)} real images, "
            f"{len(real_labels)} real masks, at least 1 of each and as many real images as masks "
            "wanted; give two pair sets that hold pairs"
        )
    labels = [label for _, label in generated]
    items = {
        "labels_present": _labels_present(labels, schema),
        "volume_fractions": _volume_fractions(labels, real_labels, schema),
        "intensity_order": _order(
            generated, list(zip(real_images, real_labels, strict=True)), schema
        ),
        "novelty": _novelty(labels, real_labels, persons, schema, trained_on),
    }
    passed = all(item["passed"] is True for item in items.values())
    return {"passed": passed, "n": len(generated), "items": items}


def _item(failures: Sequence[str], numbers: Mapping[str, object]) -> dict[str, object]:
    return {"passed": not failures, "failures": list(failures), **numbers}


def _labels_present(labels: Sequence[LabelMap], schema: LabelSchema) -> dict[str, object]:
    least = {
        item.name: min(int((label == item.id).sum()) for label in labels) for item in schema.labels
    }
    failures = [
        f"pair {i}: label {item.name} is absent"
        for i, label in enumerate(labels)
        for item in scored_labels(schema)
        if item.required and not (label == item.id).any()
    ]
    return _item(failures, {"least_voxels": least})


def _volume_fractions(
    labels: Sequence[LabelMap], real: Sequence[LabelMap], schema: LabelSchema
) -> dict[str, object]:
    made = [volume_fractions(label, schema) for label in labels]
    wanted = [volume_fractions(label, schema) for label in real]
    numbers: dict[str, dict[str, float]] = {}
    failures: list[str] = []
    for item in scored_labels(schema):
        name = item.name
        values, reals = [m[name] for m in made], [w[name] for w in wanted]
        low, high = (1 - MARGIN) * min(reals), (1 + MARGIN) * max(reals)
        numbers[name] = {"min": min(values), "max": max(values), "low": low, "high": high}
        failures += [
            f"pair {i}: {name} {value:.4f} is outside {low:.4f}..{high:.4f}"
            for i, value in enumerate(values)
            if not low <= value <= high
        ]
    return _item(failures, {"fractions": numbers})


def _order(
    generated: Sequence[Pair], real: Sequence[Pair], schema: LabelSchema
) -> dict[str, object]:
    results = [intensity_order(image, label, schema) for image, label in generated]
    scans = [intensity_order(image, label, schema)["passed"] is True for image, label in real]
    failures = [
        f"pair {i}: medians {result['medians']}"
        for i, result in enumerate(results)
        if result["passed"] is not True
    ]
    numbers = {"order": list(schema.intensity_order), "real_share": float(np.mean(scans))}
    if len(schema.intensity_order) < 2:
        return {"passed": NO_ORDER, "failures": [], **numbers}
    return _item(failures, numbers)


def _novelty(
    labels: Sequence[LabelMap],
    real: Sequence[LabelMap],
    persons: Sequence[str],
    schema: LabelSchema,
    trained_on: Sequence[bool] | None,
) -> dict[str, object]:
    found = novelty(labels, real, persons, schema, trained_on=trained_on)
    nearest, reference = found["nearest"], found["reference"]
    assert isinstance(nearest, list)
    numbers = {"max": found["max"], "reference": reference}
    if isinstance(reference, str):
        return {"passed": reference, "failures": [], **numbers}
    failures = [
        f"pair {i}: Dice {entry['dice']} with real mask {entry['training']} is above {reference}"
        for i, entry in enumerate(nearest)
        if isinstance(entry["dice"], str) or entry["dice"] > reference
    ]
    return _item(failures, numbers)
