"""Training data as a union of parts: real and synthetic pairs, or some pairs of a set.

D, H, W volume size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.datasets import Arrays, PairSet, load_arrays
from common.errors import MedpairError

Part = Mapping[str, Any]
KEYS = {"dir", "split", "ids", "num", "seed"}


def load_training(dataset_dir: str, parts: Sequence[Part] | str | None = None) -> Arrays:
    """Load what a network is trained on.

    Args:
        dataset_dir: pair set (or phantoms) whose split "training" is loaded where there are no
            parts.
        parts: what is loaded instead: for each part ``dir``, a pair set or phantoms; ``split``,
            "training" by default, null for all; and of those either the pairs named in ``ids`` or
            ``num`` of them, drawn with ``seed`` (by default all). Also the path of a JSON file
            that holds such a list.

    Returns:
        All pairs; ids are preceded by the number of their part where there are several.

    Raises:
        MedpairError: for parts that name what is not there, or that differ in schema or spacing.
    """
    if parts is None:
        return load_arrays(dataset_dir, "training")
    listed = _listed(parts)
    loaded = [_load(part, f"parts#{n}") for n, part in enumerate(listed)]
    names = [str(part["dir"]) for part in listed]
    for name, data in zip(names[1:], loaded[1:], strict=True):
        check_alike(names[0], loaded[0], name, data)
    if len(loaded) == 1:
        return loaded[0]
    return Arrays(
        tuple(f"{n}/{name}" for n, data in enumerate(loaded) for name in data.ids),
        [image for data in loaded for image in data.images],
        [label for data in loaded for label in data.labels],
        loaded[0].schema,
        loaded[0].spacing,
    )


def check_alike(
    name: str, data: Arrays | PairSet, other_name: str, other: Arrays | PairSet
) -> None:
    """Refuse two sets of different labels or voxel size.

    Args:
        name: the first set's, for the message.
        data: the first set.
        other_name: the second set's.
        other: the second set.

    Raises:
        MedpairError: if the schemas' names or labels, or the spacings, differ.
    """
    ours, theirs = data.schema, other.schema
    if (ours.name, ours.names) != (theirs.name, theirs.names):
        raise MedpairError(
            f"{other_name}: schema {theirs.name} ({', '.join(theirs.names[1:])}), wanted "
            f"{ours.name} ({', '.join(ours.names[1:])}) as {name}; use pair sets of one schema"
        )
    if not _equal(data.spacing, other.spacing):
        raise MedpairError(
            f"{other_name}: spacing {_mm(other.spacing)}, wanted {_mm(data.spacing)} as {name}; "
            "prepare or generate it at that spacing"
        )


def _equal(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=1e-3))


def _mm(spacing: Sequence[float] | None) -> str:
    return "that differs" if spacing is None else "x".join(f"{v:g}" for v in spacing) + " mm"


def _listed(given: Sequence[Part] | str) -> list[Part]:
    origin = given if isinstance(given, str) else "parts"
    parts = _read(given) if isinstance(given, str) else given
    if not isinstance(parts, list | tuple) or not parts:
        raise MedpairError(f"{origin}: {parts}, wanted a list of at least one part")
    for part in parts:
        if not isinstance(part, Mapping) or "dir" not in part or set(part) - KEYS:
            wanted = ", ".join(sorted(KEYS - {"dir"}))
            raise MedpairError(f"{origin}: {part}, wanted dir and of {wanted}; correct it")
        if part.get("ids") is not None and part.get("num") is not None:
            raise MedpairError(f"{origin}: {part['dir']} has ids and num; leave one out")
    return list(parts)


def _read(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MedpairError(f"parts: {path}: {error}; give a JSON list of parts") from error


def _load(part: Part, key: str) -> Arrays:
    folder, split = str(part["dir"]), part.get("split", "training")
    if folder.startswith("phantom:"):
        data = load_arrays(folder, split)
        chosen = [data.ids.index(name) for name in _chosen(part, key, data.ids)]
        images, labels = ([values[i] for i in chosen] for values in (data.images, data.labels))
        ids = tuple(data.ids[i] for i in chosen)
        return Arrays(ids, images, labels, data.schema, data.spacing)
    pairset = PairSet.open(folder)
    ids = _chosen(part, key, pairset.ids(split))
    pairs = [pairset.read(name) for name in ids]
    images, labels = [p.image for p in pairs], [p.label for p in pairs]
    return Arrays(ids, images, labels, pairset.schema, pairset.spacing)


def _chosen(part: Part, key: str, ids: tuple[str, ...]) -> tuple[str, ...]:
    where = f"{key} ({part['dir']}, split {part.get('split', 'training')})"
    if part.get("ids") is not None:
        wanted = tuple(str(name) for name in part["ids"])
        unknown = sorted(set(wanted) - set(ids))
        if unknown or not wanted:
            missing = unknown[0] if unknown else "any id"
            raise MedpairError(f"{where}: no pair {missing!r} among {len(ids)}; correct ids")
        return wanted
    number = len(ids) if part.get("num") is None else int(part["num"])
    if not 1 <= number <= len(ids):
        raise MedpairError(f"{where}: {len(ids)} pairs, wanted {max(1, number)}; correct num")
    order = np.random.default_rng(int(part.get("seed", 0))).permutation(len(ids))
    return tuple(ids[i] for i in sorted(order[:number]))
