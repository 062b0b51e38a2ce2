"""Two habits of our docstrings, as mkdocstrings wants them."""

from __future__ import annotations

import re

_SOURCE = re.compile(r"^Source: (?P<text>.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
_SHARED = re.compile(
    r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n(?P=indent) +\S.*)*)", re.MULTILINE
)


def readable(text: str) -> str:
    """Return a docstring as mkdocstrings reads it.

    ``Source:`` becomes a paragraph in bold, and ``a, b: text`` an entry for each name.
    """

    def source(match: re.Match[str]) -> str:
        return "**Source:** " + " ".join(match.group("text").split())

    def apart(match: re.Match[str]) -> str:
        indent, names, shared = match.group("indent", "names", "text")
        return "\n".join(f"{indent}{name}: {shared}" for name in names.split(", "))

    return _SHARED.sub(apart, _SOURCE.sub(source, text))
