"""Where the bundles lie, and what stands in them."""

from __future__ import annotations

import json
from pathlib import Path

import common
from common.errors import MedpairError


def bundles_dir() -> Path:
    """Return the folder of bundles and pipelines, in a source tree or beside a wheel."""
    return Path(common.__file__).resolve().parent.parent / "bundles"


def pipelines() -> tuple[str, ...]:
    """Return the names of the pipelines that can be generated and trained."""
    return tuple(sorted(path.stem for path in bundles_dir().glob("*.yaml")))


def pipeline_file(name: str) -> Path:
    """Return the config file of a pipeline.

    Raises:
        MedpairError: if there is none of that name.
    """
    if name not in pipelines():
        known = ", ".join(pipelines()) or "none"
        raise MedpairError(f"pipeline {name!r} is unknown, wanted one of {known}; name one of them")
    return bundles_dir() / f"{name}.yaml"


def bundles() -> tuple[str, ...]:
    """Return the names of the single-stage bundles."""
    found = bundles_dir().glob("*/configs/metadata.json")
    return tuple(sorted(path.parent.parent.name for path in found))


def schemas() -> tuple[str, ...]:
    """Return the names of the label schemas that ship."""
    found = (Path(common.__file__).parent / "data" / "schemas").glob("*.yaml")
    return tuple(sorted(path.stem for path in found))


def presets(bundle: str) -> dict[str, Path]:
    """Return the weights that ship with a bundle.

    Args:
        bundle: name of a folder in `bundles_dir`.

    Returns:
        Weight file by preset; the default preset is called ``default`` (``models/model.pt``).

    Raises:
        MedpairError: there is no such bundle.
    """
    if bundle not in bundles():
        wanted = ", ".join(bundles()) or "none found"
        raise MedpairError(f"bundle: found '{bundle}', wanted one of {wanted}: name one of them")
    weights = sorted((bundles_dir() / bundle / "models").glob("*.pt"))
    return {"default" if path.stem == "model" else path.stem: path for path in weights}


def preset_of(weights: Path) -> str:
    """Return the preset that a weight file is for, as its card says; else its name."""
    card = weights.with_suffix(".json")
    said = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    return str(said.get("preset", "default" if weights.stem == "model" else weights.stem))
