"""Bundles opened as stages: configs, overlays of presets, weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from common.bundles import bundles_dir
from common.engines.weights import read_card
from common.errors import MedpairError
from common.io.manifest import sha256
from common.jobs import Stage
from common.progress import Progress

JUDGE = "segmentation_eval"
"""Bundle whose network judges what the others make."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedStage:
    """A stage and what identifies it: bundle, hash of its weights, its own attribute `identity`."""

    run: Stage
    identity: Mapping[str, Any]


def open_stage(bundle: str, preset: str, weights: str | Path | None = None) -> OpenedStage:
    """Open a bundle's inference config and return its stage.

    Args:
        bundle: folder name in `bundles/`.
        preset: size; its overlay and its weights are used.
        weights: folder with ``<bundle>/model.pt``; None takes the weights that ship.

    Raises:
        MedpairError: if there are no weights for the preset.
    """
    stage: Stage | None = open_key(bundle, "stage", preset, weights)
    assert stage is not None
    path = weights_path(bundle, preset, weights)
    own = getattr(stage, "identity", {})
    return OpenedStage(stage, {"bundle": bundle, "weights_sha256": sha256(path), **own})


def open_key(
    bundle: str | None, key: str, preset: str, weights: str | Path | None = None
) -> Any | None:
    """Return what a key of a bundle's inference config stands for, such as a callable.

    Args:
        bundle: folder name in `bundles/`; None returns None.
        key: key of ``configs/inference.yaml``.
        preset: size; its overlay and its weights are used.
        weights: folder with ``<bundle>/model.pt``; None takes the weights that ship.

    Raises:
        MedpairError: if there are no weights for the preset.
    """
    if bundle is None:
        return None
    path = weights_path(bundle, preset, weights)
    workflow = open_workflow(bundle, "inference", preset, {"weights": str(path), "preset": preset})
    with plain_errors():
        return workflow.parser.get_parsed_content(key)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the `MedpairError` of a config's object itself, out of MONAI's wrapping."""
    try:
        yield
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MedpairError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def weights_path(bundle: str, preset: str, weights: str | Path | None = None) -> Path:
    """Return the weight file of a bundle for a preset.

    Raises:
        MedpairError: if there is none.
    """
    if weights is not None:
        return Path(weights) / bundle / "model.pt"
    models = bundles_dir() / bundle / "models"
    for path in (models / f"{preset}.pt", models / "model.pt"):
        if path.is_file() and read_card(path).get("preset") == preset:
            return path
    shipped = sorted({str(read_card(p).get("preset")) for p in models.glob("*.pt")})
    raise MedpairError(
        f"{bundle}: no weights for preset {preset!r}, it ships {', '.join(shipped) or 'none'}; "
        "choose one of those, or train and give --weights DIR"
    )


def judge_of(preset: str, weights: str | Path | None) -> dict[str, str | None]:
    """Return the overrides that say which segmenter judges what a network made.

    Args:
        preset: of the network.
        weights: folder of its weights; a segmenter in it is taken before the one that ships.

    Returns:
        ``segmenter_weights``, nothing where the shipped one does, or no ``segmenter`` where there
        is none of the preset; then a warning says so.
    """
    if weights is not None and weights_path(JUDGE, preset, weights).is_file():
        return {"segmenter_weights": str(Path(weights).absolute())}
    try:
        weights_path(JUDGE, preset)
    except MedpairError as error:
        log.warning("what a segmenter would judge is left out: %s", error)
        return {"segmenter": None}
    return {}


def run_use(
    bundle: str,
    kind: str,
    preset: str,
    overrides: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:
    """Run what a bundle's config calls its ``use``: a callable that takes the progress.

    Args:
        bundle: folder name in `bundles/`.
        kind: name of the config file, such as "enhance" or "judge".
        preset: its overlay in ``presets`` is used where there is one.
        overrides: values by config key.
        progress: called with (task, done, total).
    """
    workflow = open_workflow(bundle, kind, preset, overrides)
    with plain_errors():
        use = workflow.parser.get_parsed_content("use")
    use(progress)


def open_workflow(
    bundle: str | Path, kind: str, preset: str, overrides: Mapping[str, Any]
) -> ConfigWorkflow:
    """Open a bundle's config with the overlay of a preset, ready to run.

    Args:
        bundle: folder name in `bundles/`, or a folder.
        kind: name of the config file, such as "train", "inference" or "evaluate".
        preset: its overlay in ``presets`` is used where there is one.
        overrides: values by config key.
    """
    root = bundles_dir() / bundle
    configs, overlay = root / "configs", root / "presets" / f"{preset}.yaml"
    files = [str(configs / f"{kind}.yaml")] + ([str(overlay)] if overlay.is_file() else [])
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # its habits, no faults
    logging.getLogger("ignite.engine.engine").setLevel(logging.CRITICAL)  # what it says is raised
    workflow = ConfigWorkflow(
        config_file=files,
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type="train" if kind.startswith("train") else "infer",
        **overrides,
    )
    workflow.initialize()
    return workflow
