"""Links: those between files of the repository become links between pages of the site."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from posixpath import normpath, relpath

_FENCE = re.compile(r"(^ *```.*?^ *```[^\n]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_ELSEWHERE = re.compile(r"^([a-z]+:|#|/)")


def rewrite(
    markdown: str, origin: str, page: str, table: Mapping[str, str], exists: Callable[[str], bool]
) -> str:
    """Point the relative links of a page at the site.

    A link to a file that the site does not hold becomes its text and the file's path as code. A
    link to a file that does not exist stays, so that the build fails.

    Args:
        markdown: the page.
        origin: its path in the repository, which its links are relative to.
        page: its path in the site.
        table: {path in the repository: path in the site} of all files of the site.
        exists: whether the repository holds a path.
    """

    def replaced(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if _ELSEWHERE.match(target):
            return match.group()
        path, _, anchor = target.partition("#")
        full = normpath(str(PurePosixPath(origin).parent / path))
        if full in table:
            there = relpath(table[full], str(PurePosixPath(page).parent))
            return f"{mark}[{text}]({there}{'#' + anchor if anchor else ''})"
        if exists(full):
            return f"`{full}`" if text.strip("`") == full else f"{text} (`{full}`)"
        return match.group()

    parts = _FENCE.split(markdown)
    return "".join(part if i % 2 else _LINK.sub(replaced, part) for i, part in enumerate(parts))
