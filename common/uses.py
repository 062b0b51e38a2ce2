"""Uses of a trained volume generator: enhance a pair set, edit a patient, harmonise a pair set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.bundles import bundles_dir

if TYPE_CHECKING:
    from common.jobs import Geometry
    from common.progress import Progress

# torch and monai take seconds to import: functions import what they need when they run.

StrPath = str | Path
BUNDLE = "gem3d_volume"
PIPELINE = "gem3d"
PAIR_SETS = ("enhance", "harmonise")
"""The uses that write a pair set, which gets a report."""
AUGMENTATION = {"_target_": "gem3d.mask_augment.MaskAugmentation"}


def enhance(
    *,
    data: StrPath,
    out: StrPath,
    times: int = 1,
    mask_augmentation: bool = False,
    informed: str = "cross",
    seed: int = 0,
    preset: str | None = None,
    weights: StrPath | None = None,
    progress: Progress | None = None,
) -> Path:
    """Give every training mask of a pair set new images from other informed slices.

    Args:
        data: pair set of real scans.
        out: folder of the new pair set; called again, it makes only what is missing.
        times: new images per mask, >= 1; raised later, the first ones stay.
        mask_augmentation: change the masks too, by the settings of the schema in
            ``mask_augmentation``; flip and small rotations where there are none.
        informed: "cross" for slices of other persons, "generated" for the slice generator's.
        seed: the run's seed, >= 0.
        preset: size; None takes the bundle's default.
        weights: folder that `train` wrote; None takes the weights that ship.
        progress: called with ("volumes", done, total).

    Returns:
        The pair set's folder, with ``enhance.json`` and ``report.html``.

    Raises:
        MedpairError: for values outside their range, data that do not fit, or a folder in use.
    """
    chosen, geometry = _geometry(preset)
    _check(data, geometry, chosen)
    overrides: dict[str, Any] = {"times": times, "informed": informed}
    overrides["dataset_dir"] = _absolute(data)
    if mask_augmentation:
        overrides["mask_augmentation"] = _augmentation(geometry.schema)
    return _run("enhance", chosen, weights, out, {**overrides, "seed": seed}, progress)


def counterfactual(
    *,
    image: StrPath,
    mask: StrPath,
    edit: StrPath,
    out: StrPath,
    slice: int | None = None,
    keep_outside: bool = False,
    data: StrPath | None = None,
    source: str | None = None,
    allow_mismatch: bool = False,
    seed: int = 0,
    preset: str | None = None,
    weights: StrPath | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make the image of a patient for an edited mask.

    Args:
        image: image file in raw values.
        mask: its mask.
        edit: an edited mask in the schema's ids, or a YAML list of operations.
        out: gets ``image.nii.gz``, ``mask.nii.gz``, ``report.json``, ``counterfactual.png``.
        slice: the informed slice, counted in the file from posterior (AP) or inferior (SI); None
            takes the fullest that is not edited.
        keep_outside: keep the scan's own voxels outside the edited region.
        data: pair set of other persons' scans, for the identity.
        source: whose ids the mask uses; None finds it out.
        allow_mismatch: use the slice although its body does not fit the edited mask.
        seed: the run's seed, >= 0.
        preset: size; None takes the bundle's default.
        weights: folder that `train` wrote; None takes the weights that ship.
        progress: called with ("volumes", done, total).

    Returns:
        The folder.

    Raises:
        MedpairError: for files that are missing or do not fit, or an edit without effect.
    """
    chosen, geometry = _geometry(preset)
    overrides: dict[str, Any] = {
        "image": _absolute(image),
        "mask": _absolute(mask),
        "edit": _absolute(edit),
        "slice": slice,
        "keep_outside": keep_outside,
        "source": source,
        "allow_mismatch": allow_mismatch,
        "seed": seed,
        "schema": geometry.schema,
        "spacing": list(geometry.spacing),
        "size": list(geometry.size),
    }
    if data is not None:
        _check(data, geometry, chosen)
        overrides["dataset_dir"] = _absolute(data)
    return _run("counterfactual", chosen, weights, out, overrides, progress)


def harmonise(
    *,
    data: StrPath,
    reference: StrPath,
    slice: int,
    out: StrPath,
    allow_mismatch: bool = False,
    seed: int = 0,
    preset: str | None = None,
    weights: StrPath | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make the images of a pair set again from one informed slice.

    Anatomy that no label names is invented anew.

    Args:
        data: pair set of real scans.
        reference: id of a pair of it, or an image file.
        slice: slice of the reference; of a file counted from posterior (AP) or inferior (SI).
        out: folder of the new pair set; called again, it makes only what is missing.
        allow_mismatch: take the nearest body shape for masks that the slice does not fit.
        seed: the run's seed, >= 0.
        preset: size; None takes the bundle's default.
        weights: folder that `train` wrote; None takes the weights that ship.
        progress: called with ("volumes", done, total).

    Returns:
        The pair set's folder, with ``harmonise.json`` and ``report.html``.

    Raises:
        MedpairError: for a missing reference, a body that does not fit, or a folder in use.
    """
    chosen, geometry = _geometry(preset)
    _check(data, geometry, chosen)
    named = str(reference)
    overrides = {
        "dataset_dir": _absolute(data),
        "reference": _absolute(named) if Path(named).is_file() else named,
        "slice": slice,
        "allow_mismatch": allow_mismatch,
        "seed": seed,
    }
    return _run("harmonise", chosen, weights, out, overrides, progress)


def _run(
    kind: str,
    preset: str,
    weights: StrPath | None,
    out: StrPath,
    overrides: Mapping[str, Any],
    progress: Progress | None,
) -> Path:
    from common.report.page import write_report
    from common.stages import judge_of, run_use, weights_path

    given = {
        **overrides,
        "output_dir": _absolute(out),
        "preset": preset,
        "weights": str(weights_path(BUNDLE, preset, weights)),
        **judge_of(preset, weights),
    }
    run_use(BUNDLE, kind, preset, given, progress)
    if kind in PAIR_SETS:
        write_report(out, progress=progress)
    return Path(out)


def _geometry(preset: str | None) -> tuple[str, Geometry]:
    from common.pipeline import preset_geometry, read_pipeline

    config = read_pipeline(PIPELINE)
    chosen = preset or str(config["preset"])
    return chosen, preset_geometry(config["presets"], chosen)


def _check(data: StrPath, geometry: Geometry, preset: str) -> None:
    from common.data.datasets import PairSet
    from common.pipeline import check_data

    check_data(PairSet.open(data), geometry, preset)


def _augmentation(schema: str) -> dict[str, Any]:
    from monai.bundle import ConfigParser

    path = bundles_dir() / BUNDLE / "mask_augmentation" / f"{schema}.yaml"
    if not path.is_file():
        return AUGMENTATION
    return dict(ConfigParser.load_config_file(str(path))["mask_augmentation"])


def _absolute(path: StrPath) -> str:
    return str(Path(path).absolute())
