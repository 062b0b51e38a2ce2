"""Where this bundle lies."""

from __future__ import annotations

from pathlib import Path


def bundle_root() -> str:
    """Return the bundle's folder, the parent of this package."""
    return str(Path(__file__).resolve().parent.parent)
