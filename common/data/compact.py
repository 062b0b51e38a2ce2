"""A pair set as one small file, to carry scans to the machine that trains on them.

A zip file: `header.json`, and for each pair its mask and image as bytes. Images are whole numbers
of 16 (or 8) bits: places in a list of the values that occur, or steps between the lowest and the
highest. Along W each number is stored as its difference from the one before, low and high bytes
apart, which packs better.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.data.datasets import Arrays, PairSet, SetHeader
from common.errors import MedpairError
from common.io.atomic import atomic_path, to_json
from common.progress import Progress, silent

FORMAT = "medpair-compact-1"
MOST_VALUES = 2**14
"""An image with more different values is rounded to steps instead of listing them."""

_BITS: Mapping[int, type[np.unsignedinteger[Any]]] = {8: np.uint8, 16: np.uint16}
_SHARED = ("spacing", "size", "intensity", "schema")


def write_compact(
    pairset: PairSet,
    path: str | Path,
    *,
    kept_back: bool = False,
    bits: int = 16,
    progress: Progress | None = None,
) -> float:
    """Write the training pairs of a pair set as one file; equal pairs give equal bytes.

    Args:
        pairset: the pair set.
        path: the file.
        kept_back: write the pairs of split "validation", too.
        bits: of an image's numbers, 16 or 8. With 16, images of at most `MOST_VALUES` different
            values (scans that were not resampled) are kept exactly.
        progress: called with ("export", pairs done, pairs in all).

    Returns:
        The largest distance of a written image from its original; masks are exact.

    Raises:
        MedpairError: for other bits, a set without such pairs, or damaged files.
    """
    if bits not in _BITS:
        raise MedpairError(f"bits: {bits}, wanted 8 or 16")
    ids, told = pairset.ids(None if kept_back else "training"), progress or silent
    if not ids:
        raise MedpairError(f"{pairset.dir}: no pair to write; run medpair prepare on it")
    lines: list[dict[str, Any]] = []
    told("export", 0, len(ids))
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as target:
        for done, identity in enumerate(ids, start=1):
            line, parts = _packed(pairset, identity, bits)
            for name, data in parts.items():
                _put(target, f"{identity}/{name}", data)
            lines.append(line)
            told("export", done, len(ids))
        shared = {key: pairset.header[key] for key in _SHARED}
        header = {"format": FORMAT, **shared, "pairs": lines}
        _put(target, "header.json", to_json(header, indent=1).encode())
    return float(max(line["error"] for line in lines))


class CompactSet(SetHeader):
    """A file that `write_compact` wrote, opened for reading.

    Args:
        path: the file.

    Raises:
        MedpairError: where there is none, or it is damaged or of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        self.dir = Path(path)
        try:
            header = json.loads(self._bytes("header.json"))
            kind = header.get("format")
        except (ValueError, AttributeError) as error:
            raise MedpairError(
                f"{path}: no file of medpair export --format compact ({error}); write it again"
            ) from error
        if kind != FORMAT:
            raise MedpairError(
                f"{path}: format {kind}, wanted {FORMAT}; write it again with medpair export"
            )
        self.header, self.origin = header, self.dir

    def lines(self, split: str | None = None) -> list[dict[str, Any]]:
        """Return id, split, person, shape and sums of the pairs, of one split or of all."""
        return [line for line in self.header["pairs"] if split in (None, line["split"])]

    def read(self, line: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return image float32 and mask uint8 (D, H, W) of one of the `lines`.

        Raises:
            MedpairError: if they are damaged.
        """
        shape, name = tuple(line["shape"]), line["id"]
        parts = {key: self._bytes(f"{name}/{key}") for key in line["sha256"]}
        for key, data in parts.items():
            if hashlib.sha256(data).hexdigest() != line["sha256"][key]:
                raise MedpairError(f"{self.dir}: {key} of {name} is damaged; fetch the file again")
        label = np.frombuffer(parts["label"], np.uint8).reshape(shape)
        numbers = _undo(parts["image"], shape, _BITS[line["bits"]])
        if "values" in parts:
            return np.frombuffer(parts["values"], "<f4")[numbers], label.copy()
        return _from_steps(numbers, line), label.copy()

    def _bytes(self, name: str) -> bytes:
        try:
            with zipfile.ZipFile(self.dir) as source:
                return source.read(name)
        except (OSError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise MedpairError(
                f"{self.dir}: {name} cannot be read ({' '.join(str(error).split())}); fetch the "
                "file again, or write it with medpair export --format compact"
            ) from error


def open_set(path: str | Path) -> PairSet | CompactSet:
    """Open a pair set, whether a folder or one file; errors as for either."""
    return CompactSet(path) if Path(path).is_file() else PairSet.open(path)


def compact_arrays(path: str | Path, split: str | None) -> Arrays:
    """Load the pairs of a split of a compact file; see `common.data.datasets.load_arrays`.

    A file without kept-back pairs gives its training pairs for validations, and logs it.

    Raises:
        MedpairError: if the file is damaged.
    """
    opened = CompactSet(path)
    lines = opened.lines(split)
    if not lines and split == "validation":
        logging.getLogger(__name__).warning(
            "%s: holds no kept-back scans, so validations look at training scans", path
        )
        lines = opened.lines()
    if not lines:
        raise MedpairError(f"{path}: no pair in split {split or 'any'}; write it again")
    pairs = [opened.read(line) for line in lines]
    images, labels = [image for image, _ in pairs], [label for _, label in pairs]
    ids = tuple(line["id"] for line in lines)
    return Arrays(ids, images, labels, opened.schema, opened.spacing)


def _packed(pairset: PairSet, identity: str, bits: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the header line of a pair and its parts as bytes."""
    pair, record = pairset.read(identity), pairset.record(identity)
    parts = {"label": pair.label.tobytes()}
    line: dict[str, Any] = {key: record[key] for key in ("id", "split", "person")}
    line |= {"shape": list(pair.label.shape), "bits": bits, "error": 0.0}
    values, places = np.unique(pair.image, return_inverse=True)
    if len(values) <= min(MOST_VALUES, 2**bits):
        parts["values"] = values.astype("<f4").tobytes()
        numbers = places.reshape(pair.image.shape).astype(_BITS[bits])
    else:
        low, high = float(values[0]), float(values[-1])
        line |= {"lower": low, "upper": high}
        steps = (pair.image.astype(np.float64) - low) * ((2**bits - 1) / (high - low))
        numbers = np.round(steps).astype(_BITS[bits])
        line["error"] = float(np.abs(_from_steps(numbers, line) - pair.image).max())
    parts["image"] = _differences(numbers)
    line["sha256"] = {key: hashlib.sha256(data).hexdigest() for key, data in parts.items()}
    return line, parts


def _from_steps(numbers: np.ndarray, line: Mapping[str, Any]) -> np.ndarray:
    step = (line["upper"] - line["lower"]) / (2 ** line["bits"] - 1)
    return np.asarray(numbers * step + line["lower"], np.float32)


def _differences(numbers: np.ndarray) -> bytes:
    """Return numbers as differences along the last axis modulo 2^bits, low bytes first."""
    width = numbers.dtype.itemsize
    along = np.diff(numbers, axis=-1, prepend=numbers.dtype.type(0))
    little = along.astype(along.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).reshape(-1, width).T.tobytes()


def _undo(data: bytes, shape: tuple[int, ...], kind: type[np.unsignedinteger[Any]]) -> np.ndarray:
    """Return the numbers of `_differences`."""
    dtype = np.dtype(kind).newbyteorder("<")
    planes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1)
    along = np.ascontiguousarray(planes.T).view(dtype).reshape(shape)
    return np.cumsum(along, axis=-1, dtype=kind)


def _put(target: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # its default date makes equal bytes
    target.writestr(entry, data, zipfile.ZIP_DEFLATED, 6)
