"""Search from disk: the theme's shim comes from a network, ours from the site."""

from __future__ import annotations

import re
from posixpath import relpath

SHIM = "assets/javascripts/worker_from_disk.js"
_REMOTE_SHIM = re.compile(r'<script src="https://unpkg\.com/iframe-worker/shim"></script>')
_LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=[\"']?https?:[^>]*>"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect|icon))[^>]*?\bhref=[\"']?https?:[^>]*>"
)


def without_network(html: str, url: str) -> str:
    """Return a page that loads the shim from the site.

    Args:
        html: the page.
        url: its address within the site.

    Raises:
        ValueError: where the page would load anything from a network.
    """
    local = relpath(SHIM, url.rpartition("/")[0] or ".")
    html = _REMOTE_SHIM.sub(f'<script src="{local}"></script>', html)
    if found := _LOADED.search(html):
        raise ValueError(f"{url}: loads {found.group()}; the site must work without a network")
    return html
