"""Pairs that left a pair set: why, and where those that are kept lie.

A pair set may have sets beside its pairs, in folders of its own: pairs that a gate refused, pairs
that an audit took out. ``removed.json`` names the latter, so that no run makes them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from common.data.datasets import PairSet
from common.errors import MedpairError
from common.io.atomic import write_json
from common.io.lock import exclusive

QUARANTINE = "quarantine"
REMOVED = "removed.json"
_STANDARD = {
    "format",
    "name",
    "modality",
    "labels",
    "orientation",
    "slice_axis",
    "spacing",
    "size",
    "intensity",
    "schema",
}
"""Keys of a pair set's header that `PairSet.create` writes itself."""


def open_side(pairs: PairSet, name: str) -> PairSet:
    """Open the set of that name in the folder of a pair set, or begin it with equal settings.

    Args:
        pairs: the pair set.
        name: folder in it.
    """
    info = {key: value for key, value in pairs.header.items() if key not in _STANDARD}
    folder = pairs.dir / name
    return PairSet.create(folder, pairs.schema, pairs.spacing, pairs.size, pairs.intensity, **info)


def removed(directory: str | Path) -> dict[str, str]:
    """Return why pairs were taken out of a pair set, by id.

    Args:
        directory: the pair set's folder.

    Raises:
        MedpairError: if ``removed.json`` is damaged.
    """
    path = Path(directory) / REMOVED
    if not path.is_file():
        return {}
    try:
        return {str(key): str(why) for key, why in json.loads(path.read_text("utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise MedpairError(
            f"{path}: {error}; want ids with reasons; correct it, or delete it and audit again"
        ) from error


def take_out(pairs: PairSet, reasons: Mapping[str, str], *, quarantine: bool) -> list[str]:
    """Take pairs out of a pair set; called again after an interruption, it ends equally.

    Args:
        pairs: the pair set.
        reasons: why, by id.
        quarantine: keep the pairs in the set ``quarantine`` with the reason; else delete them.

    Returns:
        The ids that this call took out.

    Raises:
        MedpairError: if the folder is in use or a pair cannot be read.
    """
    with exclusive(pairs.dir):
        for identity in removed(pairs.dir):  # what an interrupted call left behind
            if identity in pairs.manifest or any(p.exists() for p in pairs.paths(identity)):
                pairs.remove(identity)
        left = [identity for identity in reasons if identity in pairs.manifest]
        kept = open_side(pairs, QUARANTINE) if quarantine and left else None
        for identity in left:
            if kept is not None:
                kept.write(
                    pairs.read(identity), _copied(pairs, identity) | {"reason": reasons[identity]}
                )
            write_json(pairs.dir / REMOVED, {**removed(pairs.dir), identity: reasons[identity]})
            pairs.remove(identity)
    return left


def _copied(pairs: PairSet, identity: str) -> dict[str, object]:
    """Return the record of a pair without what `PairSet.write` measures itself."""
    own = {"id", "image_sha256", "label_sha256", "shape", "voxels"}
    return {key: value for key, value in pairs.record(identity).items() if key not in own}
