"""The mark of an audited pair set: ``audit.json`` beside ``dataset.json``.

It holds for the pairs that were audited: once the manifest changes, the set is not audited.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from common.data.datasets import PairSet
from common.io.atomic import write_json
from common.io.manifest import sha256, versions

FORMAT = "medpair-audit-1"
MARK = "audit.json"
NOT_AUDITED = "not audited"


def mark_audited(pairs: PairSet, said: Mapping[str, Any]) -> dict[str, Any]:
    """Write the mark of a pair set as it is now.

    Args:
        pairs: the pair set.
        said: what the audit found: ``n_copies``, ``n_mem``, ``copies_left``, and more.

    Returns:
        What was written.
    """
    mark = {
        "format": FORMAT,
        "audited_by": versions("medpair"),
        "manifest_sha256": sha256(pairs.manifest.path),
        "pairs": len(pairs.ids()),
        **said,
    }
    write_json(pairs.dir / MARK, mark)
    return mark


def read_audit(pairs: PairSet) -> str:
    """Return what is known of copies in a pair set, in one line.

    Args:
        pairs: the pair set.
    """
    path = pairs.dir / MARK
    if not path.is_file() or not pairs.manifest.path.is_file():
        return NOT_AUDITED
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
        if mark["format"] != FORMAT:
            raise ValueError(mark["format"])
        if mark["manifest_sha256"] != sha256(pairs.manifest.path):
            return f"{NOT_AUDITED} since its pairs changed"
        seen, kept = (mark["against"][name]["pairs"] for name in ("training", "held_out"))
        return (
            f"{len(mark['copies_left'])} copies among {mark['pairs']} pairs, "
            f"{len(mark['removed'])} taken out (medpair {mark['audited_by']['medpair']}, against "
            f"{seen} training and {kept} kept-back scans)"
        )
    except (ValueError, KeyError, TypeError) as error:
        return f"{NOT_AUDITED}: {path.name} is damaged ({error!r})"
