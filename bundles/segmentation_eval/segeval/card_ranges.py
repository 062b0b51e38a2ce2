"""Ranges of intensity and volume per label, of generated pairs beside real scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.data.datasets import PairSet, voxel_counts
from common.data.readable import read_pairs
from common.metrics.intensity import label_intensity
from common.metrics.values import Value, not_computed
from segeval.card_pictures import NO_REAL, NO_SET, Sets

KINDS = ("intensity", "volume_ml")
CUBIC_MM_PER_ML = 1000.0


def ranges(sets: Sets, problems: list[str]) -> dict[str, Any] | str:
    """Return how the medians and the volumes of labels spread in both sets.

    Args:
        sets: both pair sets; a reason comes back where one is not given.
        problems: gets a line for each pair that cannot be read.

    Returns:
        By kind (``intensity``: median in the pair sets' normalised unit; ``volume_ml``), label
        and set (``real``, ``synthetic``): ``low``, ``p5``, ``median``, ``p95``, ``high``, ``n``;
        also ``inside``: the share of generated pairs within the real range.
    """
    if sets.synthetic is None or sets.real is None:
        return not_computed(NO_SET if sets.synthetic is None else NO_REAL)
    real = _measured("real", sets.real, problems)
    made = _measured("synthetic", sets.synthetic, problems)
    names = sets.real.schema.names[1:]
    return {
        kind: {name: _pair(real[kind].get(name, []), made[kind].get(name, [])) for name in names}
        for kind in KINDS
    }


def _measured(name: str, pairs: PairSet, problems: list[str]) -> dict[str, dict[str, list[Value]]]:
    """Measure pair by pair, so that one is in memory at a time."""
    found: dict[str, dict[str, list[Value]]] = {kind: {} for kind in KINDS}
    for identity in pairs.ids():
        good, bad = read_pairs(pairs, [identity])
        problems += [f"{name}: pair {key} is left out: {line}" for key, line in bad.items()]
        for pair in good:
            image = np.clip(pair.image, 0, 1)
            for label, spread in label_intensity(image, pair.label, pairs.schema).items():
                found["intensity"].setdefault(label, []).append(spread["median"])
            for label, count in voxel_counts(pair.label, pairs.schema).items():
                found["volume_ml"].setdefault(label, []).append(_volume(count, pairs))
    return found


def _volume(voxels: int, pairs: PairSet) -> Value:
    if pairs.spacing is None:
        return not_computed("the spacing differs from pair to pair")
    return voxels * float(np.prod(pairs.spacing)) / CUBIC_MM_PER_ML


def _pair(real: Sequence[Value], made: Sequence[Value]) -> dict[str, Any]:
    return {"real": spread(real), "synthetic": spread(made), "inside": _inside(real, made)}


def spread(values: Sequence[Value]) -> dict[str, Value] | str:
    """Return extremes, median and the 5th and 95th percentile of the numbers among values."""
    known = [float(v) for v in values if not isinstance(v, str)]
    if not known:
        return next((v for v in values if isinstance(v, str)), not_computed("N=0 pairs"))
    low, p5, median, p95, high = np.percentile(known, (0, 5, 50, 95, 100)).tolist()
    found: dict[str, Value] = {"low": low, "p5": p5, "median": median, "p95": p95, "high": high}
    return found | {"n": len(known)}


def _inside(real: Sequence[Value], made: Sequence[Value]) -> Value:
    known, ours = ([float(v) for v in s if not isinstance(v, str)] for s in (real, made))
    if not known or not ours:
        return not_computed("N=0 real scans or N=0 generated pairs hold the label")
    return float(np.mean([min(known) <= value <= max(known) for value in ours]))
