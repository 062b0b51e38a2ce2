"""What is installed and what a bundle, a pipeline or a pair set holds, as lines to show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import common
from common.bundles import bundles, bundles_dir, pipelines, presets
from common.errors import MedpairError

if TYPE_CHECKING:
    from common.data.datasets import PairSet

Rows = list[tuple[str, str]]


def describe(what: str | Path | None = None) -> Rows:
    """Describe the installation, or one thing in it.

    Args:
        what: name of a bundle or pipeline, or folder of a pair set; None for the installation.

    Returns:
        Rows of (key, value).

    Raises:
        MedpairError: there is no such thing.
    """
    if what is None:
        return _installation()
    if str(what) in bundles():
        return _bundle(str(what))
    if str(what) in pipelines():
        return _pipeline(str(what))
    if not Path(what).is_dir():
        known = ", ".join((*pipelines(), *bundles()))
        raise MedpairError(f"info: found '{what}', wanted a pair set's folder or one of {known}")
    from common.data.datasets import PairSet

    return _pairset(PairSet.open(what))


def as_json(rows: Rows) -> dict[str, Any]:
    """Return rows by key, the bundles of a pipeline as a list ``stages``."""
    found: dict[str, Any] = {}
    place = found
    for key, value in rows:
        if key == "bundle" and "pipeline" in found:
            place = {}
            found.setdefault("stages", []).append(place)
        place[key] = value
    return found


def _installation() -> Rows:
    schemas = Path(common.__file__).parent / "data" / "schemas"
    return [
        ("medpair", common.__version__),
        ("bundles in", str(bundles_dir())),
        ("pipelines", ", ".join(pipelines())),
        ("bundles", ", ".join(bundles())),
        ("schemas", ", ".join(sorted(path.stem for path in schemas.glob("*.yaml")))),
    ]


def _bundle(name: str) -> Rows:
    text = (bundles_dir() / name / "configs" / "metadata.json").read_text(encoding="utf-8")
    metadata = json.loads(text)
    keys = ("version", "task", "description")
    rows = [(key, str(metadata.get(key, ""))) for key in keys]
    rows.append(("licence", str(metadata.get("copyright", ""))))
    rows.append(("folder", str(bundles_dir() / name)))
    sizes = (f"{name} ({_mb(path)} MB)" for name, path in presets(name).items())
    return [("bundle", name), *rows, ("weights", ", ".join(sizes) or "none ship: train them")]


def _pipeline(name: str) -> Rows:
    config = yaml.safe_load((bundles_dir() / f"{name}.yaml").read_text(encoding="utf-8"))
    rows: Rows = [("pipeline", name)]
    for preset, entry in config["presets"].items():
        default = ", the default" if preset == config["preset"] else ""
        size, spacing = _by(entry["size"]), _by(entry["spacing"])
        rows.append((f"preset {preset}", f"{entry['schema']}, {size} of {spacing} mm{default}"))
    for stage in config["stages"]:
        rows += _bundle(stage["bundle"])
    return rows


def _pairset(pairs: PairSet) -> Rows:
    training = len(pairs.ids("training"))
    return [
        ("pair set", str(pairs.dir)),
        ("pairs", f"{len(pairs.ids())} ({training} training)"),
        ("schema", f"{pairs.schema.name}: {', '.join(pairs.schema.names)}"),
        ("size DxHxW", _by(pairs.size)),
        ("spacing mm", _by(pairs.spacing)),
        *_audit(pairs),
    ]


def _audit(pairs: PairSet) -> Rows:
    """Say whether a pair set was audited for copies; prepared scans are no one's copies."""
    from common.data.audits import read_audit

    if "prepare" in pairs.header:
        return []
    return [("audit", read_audit(pairs))]


def _by(values: Sequence[float] | None) -> str:
    return "differs" if values is None else "x".join(f"{value:g}" for value in values)


def _mb(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f}"
