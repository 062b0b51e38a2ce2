"""A folder of results belongs to one set of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import MedpairError
from common.io.atomic import write_json


def keep_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings, or compare them with those that the folder was begun with.

    Args:
        path: the JSON file.
        settings: ready for JSON.

    Raises:
        MedpairError: where they differ.
    """
    wanted = json.loads(json.dumps(settings))
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        for key in sorted({*found, *wanted}):
            if found.get(key) != wanted.get(key):
                raise MedpairError(
                    f"{path.parent}: begun with {key} {found.get(key)}, wanted {wanted.get(key)}; "
                    "choose another output_dir or delete it"
                )
    write_json(path, wanted)
