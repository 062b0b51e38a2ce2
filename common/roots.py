"""Where a bundle lies whose Python is running."""

from __future__ import annotations

import sys
from pathlib import Path

from common.errors import MedpairError


def root_of(package_file: str, bundle: str) -> str:
    """Return the folder of a bundle.

    Args:
        package_file: ``__file__`` of a module of its stage package.
        bundle: its name. In an installed wheel the package stands beside the folder ``bundles``.

    Raises:
        MedpairError: where the package was loaded from another place than the config that runs:
            one process has room for one of two copies of a bundle.
    """
    home = Path(package_file).resolve().parent
    # MONAI puts the root of the config that it runs there
    running = Path(sys.path[1]) if len(sys.path) > 1 else home.parent
    other = running / home.name / "__init__.py"
    if other.is_file() and other.resolve().parent != home:
        raise MedpairError(
            f"{running}: the config runs with the package {home.name} of {home.parent}; "
            "run each copy of a bundle in a process of its own"
        )
    installed = home.parent / "bundles" / bundle
    return str(installed if installed.is_dir() else home.parent)
