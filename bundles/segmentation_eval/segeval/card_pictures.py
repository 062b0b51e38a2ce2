"""Slices that a card shows: generated pairs, real scans, and pairs beside the nearest scan.

Pictures are as small as the volumes; the page enlarges them without smoothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.data.datasets import Pair, PairSet
from common.data.pictures import Picture, image_planes, image_rows, joined_rows, label_rows
from common.data.readable import read_pairs
from common.metrics.values import not_computed
from segeval.card_values import dig, number_at, parts_at
from segeval.card_verdicts import LIKENESS

LONGEST = 96
"""Pixels of a slice's longer side; larger slices are reduced."""
SLICES = 8
NO_SET = "no pair set is given (--synthetic)"
NO_REAL = "no set of real scans is given (--real)"
LEFT_OUT = "pictures of real scans are left out (--no-real-pictures)"


@dataclass(frozen=True)
class Sets:
    """Pair sets that a card may show.

    Attributes:
        real: scans, None where they are not given.
        synthetic: generated pairs, None where they are not given.
    """

    real: PairSet | None = None
    synthetic: PairSet | None = None


@dataclass(frozen=True)
class Shown:
    """A picture of slices.

    Attributes:
        png: the file.
        width: in pixels.
        height: in pixels.
        alt: what it shows, for those who cannot see it.
    """

    png: bytes
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Neighbours:
    """A generated pair and the training scan nearest to it.

    Attributes:
        pair: id.
        training: id.
        likeness: by the measure that names the nearest scan.
        generated: its three middle planes.
        real: those of the scan.
    """

    pair: str
    training: str
    likeness: float
    generated: Shown
    real: Shown


@dataclass(frozen=True)
class Gallery:
    """All pictures of a card; a reason for what cannot be shown.

    Attributes:
        generated: montage of generated pairs.
        real: montage of real scans.
        neighbours: pairs beside scans.
        colours: of the labels in masks, as "#rrggbb" by name.
        problems: a line for each pair that cannot be read.
    """

    generated: Shown | str
    real: Shown | str
    neighbours: Sequence[Neighbours] | str
    colours: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()

    @property
    def shows_real_scans(self) -> bool:
        """Whether a picture is of a real scan."""
        return isinstance(self.real, Shown) or not isinstance(self.neighbours, str)

    def picture_of(self, pair: str) -> Neighbours | None:
        """Return a generated pair beside the scan nearest to it; None where it is not shown."""
        shown = () if isinstance(self.neighbours, str) else self.neighbours
        return next((found for found in shown if found.pair == pair), None)


def nearest(
    audit: Mapping[str, Any] | str, judge: Mapping[str, Any] | str, sets: Sets, most: int
) -> dict[str, Any] | str:
    """Return the generated pairs that come nearest to a training scan, by the audit or the judge.

    Args:
        audit: ``audit.json``, or a reason.
        judge: ``judge.json``, or a reason.
        sets: whose ids the rows of the judge stand for.
        most: number of pairs.

    Returns:
        ``measure``, ``threshold`` and ``pairs``: copies first, then by falling likeness; each
        ``pair``, ``training``, ``likeness``, ``copy``.
    """
    for name in ("detail", "embedding", "plain"):
        rows = [
            {"pair": pair, "training": said["training"], "likeness": said["likeness"]}
            | {"copy": said.get("copy") is True}
            for pair, said in parts_at(audit, "measures", name, "volumes").items()
            if not isinstance(number_at(said, "likeness"), str)
        ]
        if rows:
            threshold = number_at(audit, "measures", name, "threshold")
            said = LIKENESS[name]
            return {"measure": said, "threshold": threshold, "pairs": _first(rows, most)}
    return _by_masks(judge, sets, most)


def _first(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (not row["copy"], -row["likeness"], row["pair"]))[:most]


def _by_masks(judge: Mapping[str, Any] | str, sets: Sets, most: int) -> dict[str, Any] | str:
    """Return the nearest pairs by the Dice of masks; the judge names pairs and scans by row."""
    found = dig(judge, "masks", "novelty", "nearest")
    if not isinstance(found, list):
        return not_computed("neither an audit nor a judge names the nearest scans")
    if sets.real is None or sets.synthetic is None:
        return not_computed(NO_REAL if sets.real is None else NO_SET)
    made = sets.synthetic.ids()
    scans = [*sets.real.ids("training"), *sets.real.ids("validation")]
    if dig(judge, "problems") != [] or len(made) != len(found):
        return not_computed("the judge left pairs out, so its rows name no scan; run medpair audit")
    rows = [
        {"pair": pair, "training": scans[row["training"]], "likeness": row["dice"], "copy": False}
        for pair, row in zip(made, found, strict=True)
        if not isinstance(row["dice"], str)
    ]
    threshold = number_at(judge, "masks", "novelty", "reference")
    return {"measure": LIKENESS["mask"], "threshold": threshold, "pairs": _first(rows, most)}


def gallery(sets: Sets, near: Mapping[str, Any] | str, most: int, real_pictures: bool) -> Gallery:
    """Draw all pictures.

    Args:
        sets: the pair sets, where they are given.
        near: from `nearest`.
        most: generated pairs in the montage; half as many real scans.
        real_pictures: whether real scans may be shown; otherwise masks that were taken from real
            scans are left out, too.
    """
    problems: list[str] = []
    made = _montage("synthetic", sets.synthetic, None, most, real_pictures, problems)
    scans: Shown | str = not_computed(LEFT_OUT)
    rows: Sequence[Neighbours] | str = not_computed(LEFT_OUT)
    if real_pictures:
        scans = _real_montage(sets.real, max(1, most // 2), problems)
        rows = near if isinstance(near, str) else _neighbours(sets, near["pairs"][:most], problems)
    return Gallery(made, scans, rows, _colours(sets), tuple(dict.fromkeys(problems)))


def _colours(sets: Sets) -> dict[str, str]:
    pairs = sets.synthetic or sets.real
    if pairs is None:
        return {}
    named = list(zip(pairs.schema.names, pairs.schema.palette, strict=True))[1:]
    return {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in named}


def _real_montage(real: PairSet | None, most: int, problems: list[str]) -> Shown | str:
    split = "validation" if real is not None and real.ids("validation") else "training"
    return _montage("real", real, split, most, True, problems)


def _montage(
    name: str,
    pairs: PairSet | None,
    split: str | None,
    most: int,
    masks: bool,
    problems: list[str],
) -> Shown | str:
    """Show the first pairs by id: a row of image slices and one of the mask for each."""
    if pairs is None:
        return not_computed(NO_REAL if name == "real" else NO_SET)
    rows: list[list[Picture]] = []
    said: list[str] = []
    for pair in _read(name, pairs, pairs.ids(split)[:most], problems):
        images = image_rows(_clipped(pair), pairs.schema, SLICES)
        rows += [[_reduced(picture) for picture in row] for row in images]
        own_mask = masks or not has_real_mask(pairs.record(pair.id))
        if own_mask:
            labels = label_rows(pair.label, pairs.schema, SLICES)
            rows += [[_thinned(picture) for picture in row] for row in labels]
        said.append(f"{pair.id} ({'image, mask' if own_mask else 'image'})")
    if not rows:
        return not_computed(f"no {name} pair can be read")
    kind = "real scans" if name == "real" else "generated pairs"
    alt = (
        f"Montage of {kind} of {pairs.dir.absolute().name}, from top to bottom "
        f"{', '.join(said)}: {SLICES} slices along D, then axial, coronal and sagittal middle"
    )
    return _shown(joined_rows(rows, scale=1), alt)


def has_real_mask(record: Mapping[str, Any]) -> bool:
    """Return whether a generated pair carries the mask of a real scan, by its manifest line."""
    source = record.get("source")
    return isinstance(source, Mapping) and "mask" in source


def _neighbours(
    sets: Sets, near: Sequence[Mapping[str, Any]], problems: list[str]
) -> list[Neighbours] | str:
    if sets.synthetic is None or sets.real is None:
        return not_computed(NO_SET if sets.synthetic is None else NO_REAL)
    rows = []
    for row in near:
        made = _read_if_there("synthetic", sets.synthetic, row["pair"], problems)
        scan = _read_if_there("real", sets.real, row["training"], problems)
        if made is not None and scan is not None:
            shown = [
                _planes(pair, pairs, kind)
                for pair, pairs, kind in (
                    (made, sets.synthetic, "generated pair"),
                    (scan, sets.real, "real training scan"),
                )
            ]
            rows.append(Neighbours(made.id, scan.id, float(row["likeness"]), *shown))
    return rows or not_computed("the nearest pairs or their scans are not in the pair sets")


def _planes(pair: Pair, pairs: PairSet, kind: str) -> Shown:
    planes = [_reduced(plane) for plane in image_planes(_clipped(pair), pairs.schema)]
    alt = f"Axial, coronal and sagittal middle slice of {kind} {pair.id}"
    return _shown(joined_rows([planes], scale=1), alt)


def _read_if_there(name: str, pairs: PairSet, identity: str, problems: list[str]) -> Pair | None:
    if identity not in pairs.manifest:
        return None
    return next(iter(_read(name, pairs, [identity], problems)), None)


def _read(name: str, pairs: PairSet, ids: Sequence[str], problems: list[str]) -> list[Pair]:
    good, bad = read_pairs(pairs, ids)
    problems += [f"{name}: pair {key} is left out: {line}" for key, line in bad.items()]
    return good


def _clipped(pair: Pair) -> npt.NDArray[np.float32]:
    return np.asarray(np.clip(pair.image, 0, 1), np.float32)


def _reduced(picture: Picture) -> Picture:
    """Return a grey picture of at most `LONGEST` pixels, averaged over blocks."""
    factor = _factor(picture)
    return picture if factor == 1 else np.asarray(Image.fromarray(picture).reduce(factor))


def _thinned(picture: Picture) -> Picture:
    """Return a picture of labels likewise, without mixing their colours."""
    factor = _factor(picture)
    return picture[factor // 2 :: factor, factor // 2 :: factor]


def _factor(picture: Picture) -> int:
    longest: int = max(picture.shape[:2])
    return -(-longest // LONGEST)


def _shown(picture: Picture, alt: str) -> Shown:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    height, width = picture.shape[:2]
    return Shown(file.getvalue(), width, height, alt)
