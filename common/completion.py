"""Names that the shell completes: bundles, pipelines, presets, label schemas; torch stays out."""

from __future__ import annotations

from collections.abc import Iterable

import typer
import yaml

from common.bundles import bundles, bundles_dir, pipelines, preset_of, presets, schemas


def pipeline_names(incomplete: str) -> list[str]:
    """Return the pipelines that begin so."""
    return _begin(pipelines(), incomplete)


def bundle_names(incomplete: str) -> list[str]:
    """Return the bundles that begin so."""
    return _begin(bundles(), incomplete)


def packable_names(incomplete: str) -> list[str]:
    """Return the bundles, and the word for all of them, that begin so."""
    return _begin((*bundles(), "all"), incomplete)


def known_names(incomplete: str) -> list[str]:
    """Return the pipelines and bundles that begin so."""
    return _begin((*pipelines(), *bundles()), incomplete)


def schema_names(incomplete: str) -> list[str]:
    """Return the label schemas that ship and begin so."""
    return _begin(schemas(), incomplete)


def preset_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the presets that begin so: of the pipeline or bundle on the line, or of all."""
    # before the option's value the parser gives up, and leaves the words in `args`
    words = {ctx.params.get("pipeline"), ctx.params.get("bundle"), *ctx.args}
    found = [preset for name in words & set(bundles()) for preset in _overlays(str(name))]
    chosen = words & set(pipelines()) or pipelines()
    return _begin(found or (p for name in chosen for p in _presets(str(name))), incomplete)


def _presets(pipeline: str) -> list[str]:
    text = (bundles_dir() / f"{pipeline}.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load(text)["presets"])


def _overlays(bundle: str) -> list[str]:
    shipped = [preset_of(path) for path in presets(bundle).values()]
    return [*shipped, *sorted(p.stem for p in (bundles_dir() / bundle / "presets").glob("*.yaml"))]


def _begin(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
