"""Rows of numbers as Markdown tables, for the benchmarks of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(found: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Return the rows as a Markdown table; floats with four digits."""
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_cell(row[column]) for column in columns) for row in found]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
