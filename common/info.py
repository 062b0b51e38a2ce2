"""What is installed and what a bundle, a pipeline or a pair set holds, as lines to show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import common
from common.bundles import (
    bundles,
    bundles_dir,
    pipeline_file,
    pipelines,
    preset_of,
    presets,
    schemas,
)
from common.errors import MedpairError
from common.gating import BY_DEFAULT
from common.io.weight_files import shards_of
from common.memory import free_gib, is_counted, needed_gib

if TYPE_CHECKING:
    from common.data.datasets import PairSet


@dataclass(frozen=True)
class Fact:
    """A value as people read it and as programs do.

    Args:
        shown: one line.
        data: what JSON can hold.
    """

    shown: str
    data: Any

    def __str__(self) -> str:
        return self.shown


Rows = list[tuple[str, str | Fact]]


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
        place[key] = value.data if isinstance(value, Fact) else value
    return found


def _installation() -> Rows:
    rows: Rows = [
        ("medpair", common.__version__),
        *_device(),
        ("bundles in", str(bundles_dir())),
        ("pipelines", ", ".join(pipelines())),
        ("bundles", ", ".join(bundles())),
        ("schemas", ", ".join(schemas())),
    ]
    rows += [(f"weights {name}", _weights(name)) for name in bundles()]
    for name in pipelines():
        rows += [(f"{name} {key}", value) for key, value in _presets(_yaml(pipeline_file(name)))]
    return rows


def _device() -> Rows:
    import torch

    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda: {torch.cuda.get_device_name(0)}"
    free = free_gib()
    shown = "unknown" if free is None else f"{free:.1f} GiB"
    return [("device", device), ("memory free", Fact(shown, free))]


def _bundle(name: str) -> Rows:
    metadata = _metadata(name)
    keys = ("version", "task", "description")
    rows: Rows = [(key, str(metadata.get(key, ""))) for key in keys]
    rows.append(("licence", str(metadata.get("copyright", ""))))
    rows.append(("folder", str(bundles_dir() / name)))
    return [("bundle", name), *rows, ("weights", _weights(name))]


def _metadata(name: str) -> dict[str, Any]:
    text = (bundles_dir() / name / "configs" / "metadata.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _weights(name: str) -> Fact:
    """Tell which presets' weights ship, their size and licence, and which presets have none."""
    files = {preset_of(path): path for path in presets(name).values()}
    overlays = (_yaml(path) for path in (bundles_dir() / name / "presets").glob("*.yaml"))
    missing = sorted({str(overlay.get("preset")) for overlay in overlays} - {*files, "None"})
    licence = str(_metadata(name).get("copyright", ""))
    shipped = [f"{preset} ({_mb(path)} MB)" for preset, path in files.items()]
    shown = f"{', '.join(shipped)}; {licence}" if shipped else "none ship: train them"
    if missing:
        shown += f"; not shipped: {', '.join(missing)}"
    sizes = {preset: float(_mb(path)) for preset, path in files.items()}
    return Fact(shown, {"shipped_mb": sizes, "not_shipped": missing, "licence": licence})


def _yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _pipeline(name: str) -> Rows:
    config = _yaml(pipeline_file(name))
    rows: Rows = [("pipeline", name), *_presets(config)]
    for stage in config["stages"]:
        rows += _bundle(stage["bundle"])
    return rows


def _presets(config: Mapping[str, Any]) -> Rows:
    """Tell schema, size and memory of each preset with the stages that run by default."""
    rows: Rows = []
    for preset, entry in config["presets"].items():
        names = [s["name"] for s in config["stages"] if preset in s.get(BY_DEFAULT, [preset])]
        needed = needed_gib(entry, names)
        memory = "memory not measured" if needed is None else f"{needed:.2f} GiB of memory on a CPU"
        memory += " (counted, not measured)" if is_counted(entry) else ""
        default = ", the default" if preset == config["preset"] else ""
        size, spacing = _by(entry["size"]), _by(entry["spacing"])
        shown = f"{entry['schema']}, {size} of {spacing} mm, {memory}{default}"
        data = {key: entry[key] for key in ("schema", "size", "spacing")}
        data |= {"memory_gib_cpu": needed, "memory_counted": is_counted(entry)}
        data |= {"default": bool(default)}
        rows.append((f"preset {preset}", Fact(shown, data)))
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
    return f"{sum(p.stat().st_size for p in (path, *shards_of(path))) / 1e6:.1f}"
