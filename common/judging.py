"""How good is a generated pair set? Opens the judge of the bundle that trains segmenters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cards import WITHOUT_REAL

if TYPE_CHECKING:
    from common.progress import Progress

# torch and monai take seconds to import: functions import what they need when they run.

StrPath = str | Path
BUNDLE = "segmentation_eval"
NO_OVERLAY = ""
"""The judge opens the segmenter itself, at its preset: no preset changes the judge's own config."""


def judge(
    *,
    real: StrPath,
    synthetic: StrPath,
    out: StrPath,
    preset: str | None = None,
    weights: StrPath | None = None,
    backbones: StrPath | None = None,
    real_pictures: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Judge a generated pair set beside real scans, without training a network.

    Args:
        real: pair set of real scans: split "training" those that the generator was trained on,
            "validation" those kept back.
        synthetic: generated pair set.
        out: gets ``judge.json``, ``card.json`` and ``card.html``.
        preset: of the segmenter (tiny, small, base); None takes tiny.
        weights: folder that `train` wrote, for the segmenter; None takes the weights that ship.
        backbones: YAML file: per name (radimagenet, inception, medicalnet, lpips) ``weights``, a
            file beside it or "hub" for a download; None leaves those networks out.
        real_pictures: whether the card shows slices of real scans.
        progress: called with ("judge", done, total).

    Returns:
        The folder; ``problems`` in its ``judge.json`` names damaged pairs that were left out.

    Raises:
        MedpairError: for sets of another schema or spacing, a person in both real splits, or
            weights that cannot be opened.
    """
    from common.stages import run_use

    given: dict[str, Any] = {
        "real": str(real),
        "synthetic": str(synthetic),
        "output_dir": str(Path(out).absolute()),
    }
    if preset is not None:
        given["preset"] = preset
    if weights is not None:
        given["weights"] = str(weights)
    if backbones is not None:
        given["backbones"] = read_backbones(backbones)
    if not real_pictures:
        given["card"] = WITHOUT_REAL
    run_use(BUNDLE, "judge", NO_OVERLAY, given, progress)
    return Path(out)


def read_backbones(path: StrPath) -> dict[str, dict[str, Any]]:
    """Read which networks of others see the images, with absolute paths.

    Args:
        path: YAML file, a mapping of names to mappings with ``weights``.

    Raises:
        MedpairError: if it is missing or something else.
    """
    import yaml

    from common.errors import MedpairError

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        raise MedpairError(f"--backbones: {path}: cannot be read ({reason}); correct it") from error
    valid = isinstance(content, Mapping) and all(
        options is None or isinstance(options, Mapping) for options in content.values()
    )
    if not valid:
        raise MedpairError(
            f"--backbones: {path}: {str(content)[:80]}, wanted lines such as "
            "'radimagenet: {weights: RadImageNet-ResNet50.pt}'; correct it"
        )
    return {str(name): _absolute(dict(options or {}), path) for name, options in content.items()}


def _absolute(options: dict[str, Any], file: StrPath) -> dict[str, Any]:
    weights = options.get("weights")
    if weights in (None, "hub"):
        return options
    return {**options, "weights": str(Path(file).absolute().parent / str(weights))}
