"""Is the slice that informed a volume handed on? The slice at the start against its source.

N volumes, H, W slice size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from common.metrics.slice_copies import KINDS, slice_likeness
from common.metrics.values import Value, not_computed
from segeval.audited import Audited

NO_RECORD = not_computed("the manifest names no informed slices")
NO_SOURCE = not_computed("the informed slices were generated or given: no scan to compare with")


def informed_copies(sets: Audited, thresholds: Mapping[str, Value]) -> dict[str, object] | str:
    """Compare the slice at each volume's start with the slice of a scan that informed it.

    Args:
        sets: the manifest of the generated pairs says which slice of which scan informed each.
        thresholds: per kind ("plain", "detail") what slices of different persons reach.

    Returns:
        ``n`` pairs; per kind ``median``, ``largest`` and ``share_above`` the threshold; ``pairs``:
        per id the ``scan``, its ``slice``, the ``start`` and both likenesses. A reason where no
        pair says what informed it.

    Source: GEM-3D, section 3.3: the informed slice stands at the start position.
    """
    if not any("informed" in record for record in sets.made.records):
        return NO_RECORD
    found = _sources(sets)
    if not found:
        return NO_SOURCE
    slices = [np.stack([item[key] for item in found]) for key in ("made", "source")]
    values = {kind: slice_likeness(slices[0], slices[1], kind) for kind in KINDS}
    report: dict[str, object] = {"n": len(found)}
    for kind in KINDS:
        threshold = thresholds[kind]
        report[kind] = {
            "median": float(np.median(values[kind])),
            "largest": float(values[kind].max()),
            "share_above": threshold
            if isinstance(threshold, str)
            else float((values[kind] > threshold).mean()),
        }
    report["pairs"] = {
        item["id"]: {
            **item["said"],
            **{kind: float(values[kind][row]) for kind in KINDS},
        }
        for row, item in enumerate(found)
    }
    return report


def _sources(sets: Audited) -> list[dict[str, Any]]:
    """Return the pairs whose informed slice is one of a scan that was read."""
    scans = {
        name: image
        for group in (sets.training, sets.held_out)
        for name, image in zip(group.ids, group.images, strict=True)
    }
    found = []
    for name, image, record in zip(sets.made.ids, sets.made.images, sets.made.records, strict=True):
        informed = record.get("informed", {})
        scan, index, start = (informed.get(key) for key in ("id", "slice", "start"))
        if scan in scans and index is not None and start is not None:
            said = {"scan": scan, "slice": int(index), "start": int(start)}
            pair = {"made": image[int(start)], "source": scans[scan][int(index)]}
            found.append({"id": name, "said": said, **pair})
    return found
