"""The extension of mkdocstrings that reads our docstrings' habits."""

from __future__ import annotations

from typing import Any

import griffe
from habits import readable


class Habits(griffe.Extension):
    """Rewrites each docstring before it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
