"""Do synthetic pairs help? Opens the comparison of the bundle that trains segmenters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cards import WITHOUT_REAL

if TYPE_CHECKING:
    from common.progress import Progress

# torch and monai take seconds to import: functions import what they need when they run.

StrPath = str | Path
BUNDLE = "segmentation_eval"
DEFAULT_PRESET = "tiny"


def compare(
    *,
    real: StrPath,
    out: StrPath,
    synthetic: Sequence[StrPath] | Mapping[str, StrPath] = (),
    test: StrPath | None = None,
    target: StrPath | None = None,
    networks: Sequence[str] | None = None,
    strategies: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    updates: int | None = None,
    folds: int | None = None,
    generator_training: StrPath | None = None,
    definitions: StrPath | None = None,
    overlay: StrPath | None = None,
    preset: str | None = None,
    real_pictures: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Train segmenters on real and synthetic pairs and compare them on scans of other persons.

    Args:
        real: pair set of real scans.
        out: gets ``compare.json``, ``compare.md``, the card and a folder per training; called
            again with the same or further choices, it makes only what is missing.
        synthetic: generated pair sets, by name or as "NAME=FOLDER" or folder; each is tried in
            turn.
        test: pair set of test cases; None takes the validation split of the target, or else of
            the real scans.
        target: pair set of real scans of another place, which strategies E3 go on to.
        networks: of unet2d, unet3d, unetr, swin_unetr; None takes unet3d.
        strategies: names in ``configs/strategies.yaml``; None takes E2-1 to E2-5.
        seeds: a training each; None takes 0, 1, 2.
        updates: optimiser updates of a full training; None takes the preset's.
        folds: cross-validation over the persons of the real scans, with so many folds.
        generator_training: pair set that the generators were trained on, to mark test persons
            that they saw.
        definitions: another file of strategies.
        overlay: YAML file of further values for the training config.
        preset: size (tiny, small, base); None takes tiny.
        real_pictures: whether the card shows slices of real scans.
        progress: called with ("cells", done, total).

    Returns:
        The folder; ``problems`` in its ``compare.json`` names damaged pairs that were left out.

    Raises:
        MedpairError: for sets that do not fit together, a person in training and in test, or
            values outside their range.
    """
    from common.stages import run_use

    if isinstance(synthetic, Mapping):
        synthetic = [f"{name}={folder}" for name, folder in synthetic.items()]
    given: dict[str, Any] = {
        "real": str(real),
        "synthetic": [str(folder) for folder in synthetic],
        "output_dir": str(Path(out).absolute()),
        "preset": preset or DEFAULT_PRESET,
    }
    files = {
        "test": test,
        "target": target,
        "generator_training": generator_training,
        "definitions": definitions,
        "overlay": overlay,
    }
    given |= {key: str(path) for key, path in files.items() if path is not None}
    lists = {"networks": networks, "strategies": strategies, "seeds": seeds}
    given |= {key: list(values) for key, values in lists.items() if values is not None}
    numbers = {"updates": updates, "folds": folds}
    given |= {key: value for key, value in numbers.items() if value is not None}
    if not real_pictures:
        given["card"] = WITHOUT_REAL
    run_use(BUNDLE, "compare", given["preset"], given, progress)
    return Path(out)
