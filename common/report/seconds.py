"""Seconds per pair, from the log of a pair set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.io.manifest import Record


def read_log(path: Path) -> list[Mapping[str, Any]]:
    """Return the lines of a ``run.jsonl``; a line that a crash cut short is left out."""
    if not path.is_file():
        return []
    return list(_lines(path))


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("seconds"), int | float):
            yield line


def seconds_of(record: Record, log: list[Mapping[str, Any]]) -> float | None:
    """Return what a pair took, all attempts together: its share of the batches that it was in.

    Args:
        record: its manifest line.
        log: from `read_log`.

    Returns:
        Seconds; None where the log does not name the pair.
    """
    shares = [line["seconds"] / max(len(names), 1) for line, names in _named(record, log)]
    return round(sum(shares), 2) if shares else None


def _named(
    record: Record, log: list[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], list[Any]]]:
    """Yield the lines that name a pair, each with all that it names."""
    for line in log:
        volumes, pairs = line.get("volumes", []), line.get("pairs", [])
        if line.get("id") == record["id"]:
            yield line, [record["id"]]
        elif record["id"] in pairs:
            yield line, pairs
        elif record.get("volume") in volumes and record.get("source") == "generated":
            yield line, volumes
