"""How long work says how far it is: one callback type."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""``progress(task, done, total)``: ``done`` of ``total`` steps of the named task are finished."""


def silent(task: str, done: int, total: int) -> None:
    """Say nothing: the default of every function that takes a ``progress``."""
