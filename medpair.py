"""Paired 3D medical images and masks: the public Python face of the project.

    >>> from medpair import prepare, train, generate, evaluate

Each function is the command of the same name; imports wait until a function is called.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.data.datasets import PairSet
    from common.progress import Progress

__all__ = [
    "audit",
    "card",
    "compare",
    "counterfactual",
    "enhance",
    "evaluate",
    "generate",
    "harmonise",
    "judge",
    "main",
    "pack",
    "prepare",
    "report",
    "train",
]

StrPath = str | Path


def _require_own_common() -> None:
    """Raise ImportError when `common` is a stranger's: the package index has one of that name."""
    wanted = Path(__file__).resolve().parent / "common"
    spec = importlib.util.find_spec("common")
    places = spec.submodule_search_locations if spec is not None else None
    found = Path(next(iter(places))).resolve() if places else None
    if found != wanted or not (wanted / "cli.py").is_file():
        raise ImportError(
            f"medpair: the package 'common' is found at {found}, wanted {wanted}: "
            "run `pip uninstall common` and install medpair again, or use a fresh environment"
        )


_require_own_common()

from common.auditing import audit  # noqa: E402 - after the check
from common.cards import card  # noqa: E402
from common.comparison import compare  # noqa: E402 - after the check
from common.judging import judge  # noqa: E402
from common.uses import counterfactual, enhance, harmonise  # noqa: E402


def prepare(
    images: StrPath,
    labels: StrPath,
    schema: StrPath,
    out: StrPath,
    *,
    spacing: float | Sequence[float] | None = None,
    size: Sequence[int] | None = None,
    crop: str | None = None,
    channel: int | str | None = None,
    persons: StrPath | None = None,
    source: str | None = None,
    holdout: float = 0.2,
    seed: int = 0,
    image_pattern: str | None = None,
    label_pattern: str | None = None,
    in_plane: Sequence[int] | None = None,
    series: str | None = None,
    progress: Progress | None = None,
) -> PairSet:
    """Turn folders of scans and masks into a pair set.

    Args:
        images: folder of `.nii`, `.nii.gz` or `.mgz` images, or of DICOM folders, one per scan.
        labels: folder of masks of the same geometry, NIfTI, RTSTRUCT or SEG; may be the same one.
        schema: label schema, a name such as ``brain4`` or a YAML file.
        out: folder of the pair set, new or begun with the same settings.
        spacing: voxel size in mm, one number or (D, H, W); None keeps each scan's.
        size: voxels (D, H, W) to crop and pad to; None keeps what is there.
        crop: ``nonzero`` centres on the brain or body; None on the volume.
        channel: which channel of 4D images, by index or name.
        persons: CSV with columns id, person and optionally split (training or validation).
        source: whose label ids the masks carry; None finds it out.
        holdout: share of persons kept back, in [0, 1], where ``persons`` names no split.
        seed: draws the persons that are kept back.
        image_pattern: file name with ``{id}``, such as ``{id}_T1.nii.gz``.
        label_pattern: the same for masks.
        in_plane: resize each slice, or what ``crop`` leaves of it, to (H, W) pixels; the slices
            are kept. Not with ``size``.
        series: which of several image series in a DICOM folder, by UID or modality.
        progress: called with (task, done, total).

    Returns:
        The pair set.

    Raises:
        common.errors.MedpairError: a defect of the input: file, value seen, wanted, repair.
    """
    from common.data.prepare import prepare as run

    return run(
        images,
        labels,
        schema,
        out,
        spacing=spacing,
        size=size,
        crop=crop,
        channel=channel,
        persons=persons,
        source=source,
        holdout=holdout,
        seed=seed,
        image_pattern=image_pattern,
        label_pattern=label_pattern,
        in_plane=in_plane,
        series=series,
        progress=progress,
    )


def train(
    pipeline: str = "medgen3d",
    *,
    data: StrPath,
    out: StrPath,
    preset: str | None = None,
    max_iterations: int | None = None,
    minutes: float | None = None,
    fast: bool = False,
    resume: bool = True,
    stages: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train the stages of a pipeline in order; called again, it continues.

    Args:
        pipeline: name of a pipeline in `bundles/`.
        data: pair set of real scans.
        out: folder for checkpoints and weights.
        preset: size (tiny, small, base); None takes the pipeline's default.
        max_iterations: stop each stage after so many iterations, at least 1.
        minutes: wall-clock budget of each stage, instead of ``max_iterations``.
        fast: compile the networks, fuse the optimiser, keep the scans on the device.
        resume: continue what ``out`` already holds.
        stages: names of the stages to train; None trains all.
        progress: called with (task, done, total).

    Returns:
        The folder that `generate` takes as ``weights``.

    Raises:
        common.errors.MedpairError: an unknown name, or data that do not fit the preset.
    """
    from common.pipeline import train as run

    run(
        pipeline,
        data=Path(data),
        out=Path(out),
        preset=preset,
        max_iterations=max_iterations,
        minutes=minutes,
        fast=fast,
        resume=resume,
        stages=stages,
        progress=progress,
    )
    return Path(out)


def generate(
    pipeline: str = "medgen3d",
    *,
    num: int = 1,
    seed: int = 0,
    out: StrPath,
    preset: str | None = None,
    depth: int | None = None,
    start: int | None = None,
    weights: StrPath | None = None,
    stages: Sequence[str] | None = None,
    data: StrPath | None = None,
    gate: bool = True,
    engine: str = "local",
    workers: int = 2,
    num_parts: int = 1,
    part_id: int | None = None,
    batch_volumes: int | None = None,
    memory_gib: float | None = None,
    compile: bool = False,
    exact: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Generate pairs into a pair set; called again, it makes only what is missing.

    Args:
        pipeline: name of a pipeline in `bundles/`.
        num: number of pairs, at least 1.
        seed: equal seeds give equal bytes on the same machine.
        out: folder of the pair set, new or begun with the same settings.
        preset: size (tiny, small, base); None takes the pipeline's default.
        depth: slices D of each volume; None takes the preset's.
        start: first slice to be made, in [0, depth); None draws it.
        weights: folder that `train` wrote; None takes the weights that ship.
        stages: only these stages; None runs all.
        data: pair set that gives what the left-out stages would have made.
        gate: refuse pairs unlike any real scan and make them again, for presets that can.
        engine: "local"; "ray", actors here or on a cluster; "slurm-array", which writes a script.
        workers: actors of "ray".
        num_parts: processes that share the job, each started with a part of its own.
        part_id: number of this one, 0..num_parts-1.
        batch_volumes: volumes made side by side; None takes the preset's. Bytes depend on it.
        memory_gib: choose them by this memory budget in GiB.
        compile: torch.compile; rounding differs, and the first batch waits for it.
        exact: equal bytes on a GPU, too; never smaller batches where memory runs out.
        progress: called with (task, done, total).

    Returns:
        The pair set's folder; the script for "slurm-array".

    Raises:
        common.errors.MedpairError: an unknown name, a value outside its range, weights of
            another schema or preset, or less free memory than the preset is known to need.
        common.errors.IncompleteError: pairs that the gate refused in all attempts; the others
            are written.
    """
    from common.pipeline import generate as run

    return run(
        pipeline,
        num=num,
        seed=seed,
        out=Path(out),
        preset=preset,
        depth=depth,
        start=start,
        weights=_path(weights),
        stages=stages,
        data=_path(data),
        gate=gate,
        engine=engine,
        workers=workers,
        num_parts=num_parts,
        part_id=part_id,
        batch_volumes=batch_volumes,
        memory_gib=memory_gib,
        compile=compile,
        exact=exact,
        progress=progress,
    )


def evaluate(
    bundle: str,
    *,
    data: StrPath,
    out: StrPath,
    synthetic: StrPath | None = None,
    weights: StrPath | None = None,
    preset: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Measure generated masks, or images made for real masks, against real scans.

    Args:
        bundle: what measures: ``mcdpm_mask`` masks, ``vid2vid_image`` images of real masks,
            ``sdm_refiner`` images before and after, ``segmentation_eval`` a segmenter.
        data: pair set of real scans.
        out: folder for the report.
        synthetic: pair set that was generated, for ``mcdpm_mask`` and ``sdm_refiner``.
        weights: folder that `train` wrote; None takes those that ship.
        preset: whose weights; None takes the bundle's default.
        progress: called with (task, done, total) by bundles that judge scan by scan.

    Returns:
        The folder of the report.

    Raises:
        common.errors.MedpairError: an unknown bundle, or pair sets that do not fit together.
    """
    from common.evaluation import evaluate as run

    return run(
        bundle,
        data=Path(data),
        out=Path(out),
        synthetic=_path(synthetic),
        weights=_path(weights),
        preset=preset,
        progress=progress,
    )


def pack(name: str, out: StrPath) -> list[Path]:
    """Write bundles as zip files that need no installed medpair.

    Args:
        name: a bundle, or "all".
        out: gets ``<bundle>_v<version>.zip`` and ``SHA256SUMS`` of the zip files.

    Returns:
        The zip files.

    Raises:
        common.errors.MedpairError: an unknown bundle, or one with missing or foreign files.
    """
    from common.pack import pack as run

    return run(name, out)


def report(pairs: StrPath, *, out: StrPath | None = None, progress: Progress | None = None) -> Path:
    """Write ``report.html``, a page to look at the pairs of a set and what is known of them.

    Args:
        pairs: a pair set.
        out: folder for the page and its viewer; None takes the pair set's.
        progress: called with (task, done, total).

    Returns:
        The page; it names pairs that cannot be read.

    Raises:
        common.errors.MedpairError: where there is no pair set, or no pair in it.
    """
    from common.report.page import write_report

    return write_report(pairs, out, progress)


def _path(value: StrPath | None) -> Path | None:
    return None if value is None else Path(value)


def main() -> None:
    """Run the command `medpair`."""
    from common.cli import main as run

    run()


if __name__ == "__main__":
    main()
