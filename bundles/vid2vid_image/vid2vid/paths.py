"""Where this bundle lies."""

from __future__ import annotations

from common.roots import root_of


def bundle_root() -> str:
    """Return the bundle's folder; errors as `root_of`."""
    return root_of(__file__, "vid2vid_image")
