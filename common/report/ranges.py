"""Ranges of real scans that label volumes are shown against."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.bundles import bundles_dir
from common.data.datasets import PairSet
from common.io.manifest import sha256

FORMAT = "medpair-ranges-1"
Range = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """What label volumes are shown against.

    Attributes:
        share: least and largest share of a label in all labelled voxels, by name.
        total_ml: least and largest volume of all labels together; None where it is not known.
        origin: whose ranges they are, in words.
    """

    share: Mapping[str, Range]
    total_ml: Range | None
    origin: str


def ranges_of(pairs: PairSet, shares: Iterable[Mapping[str, float]]) -> Ranges:
    """Return the ranges of real scans that fit a pair set; those of the set where none are known.

    Args:
        pairs: the pair set. Where a gate judged its pairs, only that gate's ranges fit.
        shares: of each of its pairs, by label.
    """
    gate = pairs.header.get("generated", {}).get("gate", {}).get("ranges_sha256")
    for path in sorted(bundles_dir().glob("*/models/*_ranges.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if _fits(content, pairs) and gate in (None, sha256(path)):
            return _real(content, path)
    found = _widest(shares)
    return Ranges(found, None, "this pair set, no ranges of real scans are known for it")


def _fits(content: Mapping[str, Any], pairs: PairSet) -> bool:
    if content.get("format") != FORMAT or content["schema"] != pairs.schema.name:
        return False
    same_size = tuple(content["size"]) == pairs.size
    spacing = pairs.spacing
    return same_size and spacing is not None and np.allclose(content["spacing"], spacing, rtol=1e-3)


def _real(content: Mapping[str, Any], path: Path) -> Ranges:
    low, high = content["volume_mm3"]
    return Ranges(
        {name: (least, most) for name, (least, most) in content["fraction"].items()},
        (low / 1000, high / 1000),
        f"{content['scans']} real scans ({path.parents[1].name}/models/{path.name})",
    )


def _widest(shares: Iterable[Mapping[str, float]]) -> dict[str, Range]:
    by_name: dict[str, list[float]] = {}
    for name, share in _items(shares):
        by_name.setdefault(name, []).append(share)
    return {name: (min(values), max(values)) for name, values in by_name.items()}


def _items(shares: Iterable[Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    for pair in shares:
        yield from pair.items()
