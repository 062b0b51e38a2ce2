"""Rows of numbers as Markdown tables and as JSON, for the benchmarks of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.io.atomic import write_json, write_text


def table(found: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Return the rows as a Markdown table; floats with four digits."""
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_cell(row[column]) for column in columns) for row in found]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def write_table(
    path: Path, found: Sequence[dict[str, Any]], columns: Sequence[str], head: str = ""
) -> None:
    """Write rows as ``<path>.md``, below a head, and as ``<path>.json``."""
    write_text(path.with_suffix(".md"), head + table(found, columns))
    write_json(path.with_suffix(".json"), list(found))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
