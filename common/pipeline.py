"""Chains of bundles: generate pair sets, train and evaluate the stages.

A stage is a callable from `PairBatch` to `PairBatch`, opened once from its bundle's config. The
output folder with its manifest is the queue: a finished pair is never made again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from common.bundles import bundles_dir, pipelines
from common.data.datasets import Pair, PairSet
from common.data.labels import load_schema
from common.data.pairs import PairBatch
from common.data.views import from_dhw, ras_affine
from common.engines.weights import read_card
from common.errors import MedpairError
from common.io.lock import exclusive
from common.io.manifest import sha256, versions
from common.io.nifti import write_volume
from common.progress import Progress, silent
from common.data.pictures import contact_sheet
from common.usage import Usage

Stage = Callable[[PairBatch], PairBatch]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Geometry:
    """What a pipeline's preset fixes.

    Args:
        schema: label schema name.
        size: volume size (D, H, W).
        spacing: voxel size along D, H, W in mm.
        intensity: raw values that image values 0 and 1 stand for: ``lower``, ``upper``.
        batch_volumes: volumes per batch; a fixed shape, so that bytes do not depend on N.
    """

    schema: str
    size: Triple
    spacing: tuple[float, float, float]
    intensity: Mapping[str, Any]
    batch_volumes: int = 1


@dataclass(frozen=True)
class Job:
    """What one generation makes: pairs 0..num-1 of a seed."""

    out: Path
    num: int
    seed: int
    geometry: Geometry
    start: int | None = None

    def __post_init__(self) -> None:
        depth = self.geometry.size[0]
        if self.num < 1:
            raise MedpairError(f"--n: {self.num}, wanted >= 1 pairs; ask for at least one")
        if not 0 <= self.seed < 1 << 64:
            raise MedpairError(f"--seed: {self.seed}, wanted 0..2^64-1; choose another seed")
        if depth < 1:
            raise MedpairError(f"--depth: {depth}, wanted >= 1 slices; ask for a deeper volume")
        if self.start is not None and not 0 <= self.start < depth:
            raise MedpairError(f"--start: {self.start}, wanted 0..{depth - 1}; choose another slice")

    def name(self, volume: int) -> str:
        """Return the id of a pair by its volume number."""
        return f"s{self.seed}_{volume:05d}"


# --- generate ------------------------------------------------------------------------------------


def generate(
    pipeline: str,
    *,
    num: int,
    seed: int,
    out: Path,
    preset: str | None = None,
    depth: int | None = None,
    start: int | None = None,
    weights: Path | None = None,
    stages: Sequence[str] | None = None,
    data: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Generate pairs with a pipeline of `bundles/`; see `generate_pipeline`.

    Args:
        pipeline: name of a pipeline, such as "medgen3d".
        num, seed, out, preset, depth, start, weights, data: see `generate_pipeline`.
        stages: names of the stages to run; None runs all.
        progress: called with (task, done, total).

    Returns:
        The pair set's folder.
    """
    config = read_pipeline(pipeline)
    return generate_pipeline(
        pipeline,
        config["stages"],
        config["presets"],
        preset=preset or config["preset"],
        num=num,
        seed=seed,
        out=out,
        depth=depth,
        start=start,
        weights=weights,
        only=stages,
        data=data,
        progress=progress,
    )


def generate_pipeline(
    name: str,
    stages: Sequence[Mapping[str, str]],
    presets: Mapping[str, Mapping[str, Any]],
    *,
    preset: str,
    num: int,
    seed: int,
    out: str | Path,
    depth: int | None = None,
    start: int | None = None,
    weights: str | Path | None = None,
    only: Sequence[str] | None = None,
    data: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Open the stages, generate the missing pairs and draw the contact sheet.

    Args:
        name: the pipeline's name, for the manifest.
        stages: ``name`` and ``bundle`` of each stage, in order.
        presets: `Geometry` entries by preset.
        preset: which of them.
        num: pairs wanted, >= 1.
        seed: the run's seed, 0..2^64-1; equal seeds give equal bytes on one machine.
        out: folder of the pair set, new or begun with the same settings.
        depth: slices D; None takes the preset's.
        start: first generated slice, 0..D-1; None draws it per volume.
        weights: folder that `train` wrote; None takes the weights that ship.
        only: names of the stages to run; None runs all.
        data: pair set whose masks replace those of the left-out mask stage.
        progress: called with (task, done, total).

    Returns:
        The pair set's folder.

    Raises:
        MedpairError: for an unknown preset or stage, weights of another schema or preset, numbers
            outside their range, or an output folder of other settings.
    """
    geometry = preset_geometry(presets, preset, depth)
    job = Job(Path(out), num, seed, geometry, start)
    chosen = choose_stages(stages, only)
    masks = PairSet.open(data) if data is not None else None
    opened = {s["name"]: open_stage(s["bundle"], preset, weights) for s in chosen}
    parameters = {
        "pipeline": name,
        "preset": preset,
        "stages": {key: stage.identity for key, stage in opened.items()},
    }
    run_stages({key: s.run for key, s in opened.items()}, job, parameters, masks, progress)
    return job.out


def run_stages(
    stages: Mapping[str, Stage],
    job: Job,
    parameters: Mapping[str, Any],
    masks: PairSet | None = None,
    progress: Progress | None = None,
) -> PairSet:
    """Make the missing pairs of a job, batch by batch, and the contact sheet.

    Args:
        stages: callables by name, in order.
        job: what is to be made.
        parameters: what decides the bytes besides the job; goes to `dataset.json`.
        masks: pair set whose masks start the batches, in the order of its ids.
        progress: called with (stage, finished volumes, volumes).

    Returns:
        The pair set.

    Raises:
        MedpairError: if a stage leaves a pair incomplete or the folder is in use.
    """
    g = job.geometry
    settings = {**parameters, "seed": job.seed, "start": job.start, "batch_volumes": g.batch_volumes}
    with exclusive(job.out):
        schema = load_schema(g.schema)
        pairset = PairSet.create(
            job.out, schema, g.spacing, g.size, dict(g.intensity), generated=settings
        )
        missing = [v for v in range(job.num) if job.name(v) not in pairset.ids()]
        groups = sorted({volume // g.batch_volumes for volume in missing})
        for index, group in enumerate(groups):
            first = group * g.batch_volumes
            volumes = tuple(range(first, first + g.batch_volumes))
            batch = _first_batch(job, pairset, volumes, masks)
            batch = _run_batch(stages, batch, pairset, progress or silent, index, len(groups))
            for slot, volume in enumerate(volumes):
                if volume in missing:
                    _write_pair(pairset, job, batch, slot)
        if missing:
            contact_sheet(pairset, job.out / "contact_sheet.png")
    return pairset


def _first_batch(
    job: Job, pairset: PairSet, volumes: tuple[int, ...], masks: PairSet | None
) -> PairBatch:
    g = job.geometry
    starts = None if job.start is None else (job.start,) * len(volumes)
    batch = PairBatch(volumes, job.seed, pairset.schema, g.spacing, g.size, starts)
    if masks is None:
        return batch
    if masks.schema.name != g.schema or masks.size != g.size:
        raise MedpairError(
            f"{masks.dir}: schema {masks.schema.name}, size {masks.size}; wanted {g.schema}, {g.size}; "
            "prepare it for this preset"
        )
    ids = masks.ids()
    labels = [masks.read(ids[v % len(ids)]).label for v in volumes]
    return PairBatch(
        volumes, job.seed, pairset.schema, g.spacing, g.size, starts, torch.from_numpy(np.stack(labels))
    )


def _run_batch(
    stages: Mapping[str, Stage],
    batch: PairBatch,
    pairset: PairSet,
    progress: Progress,
    index: int,
    count: int,
) -> PairBatch:
    for name, stage in stages.items():
        progress(name, index, count)
        usage = Usage()
        batch = stage(batch)
        volumes = list(batch.volumes)
        pairset.log({"stage": name, "volumes": volumes, **usage.measured()})
        progress(name, index + 1, count)
    return batch


def _write_pair(pairset: PairSet, job: Job, batch: PairBatch, slot: int) -> None:
    if batch.label_VDHW is None or batch.image_VDHW is None:
        lacking = "masks" if batch.label_VDHW is None else "images"
        raise MedpairError(f"stages: they made no {lacking}; run all stages, or give --data with masks")
    image = batch.image_VDHW[slot].numpy()
    if not np.isfinite(image).all():
        raise MedpairError(f"pair {job.name(batch.volumes[slot])}: NaN in the image; check the weights")
    pair = Pair(
        job.name(batch.volumes[slot]),
        np.clip((image + 1) / 2, 0, 1).astype(np.float32),
        batch.label_VDHW[slot].numpy(),
        ras_affine(batch.size, batch.spacing, batch.schema.slice_axis),
    )
    record = {
        "source": "generated",
        "seed": job.seed,
        "volume": batch.volumes[slot],
        "start": batch.start[slot] if batch.start else None,
        "intensity": {"lower": job.geometry.intensity["lower"], "upper": job.geometry.intensity["upper"]},
        "versions": versions("medpair", "torch", "monai", "numpy"),
    }
    pairset.write(pair, record)


def stage_job(
    out: str | Path,
    num: int,
    seed: int,
    schema: str,
    size: Sequence[int],
    spacing: Sequence[float],
    batch_volumes: int = 1,
    start: int | None = None,
    intensity: Mapping[str, Any] | None = None,
) -> Job:
    """Return the job of a bundle that runs alone; arguments as in `Geometry` and `Job`."""
    d, h, w = size
    geometry = Geometry(
        schema,
        (d, h, w),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        dict(intensity or {"method": "percentile", "lower": 0.0, "upper": 1.0}),
        batch_volumes,
    )
    return Job(Path(out), num, seed, geometry, start)


def write_masks(stage: Stage, job: Job) -> list[Path]:
    """Generate masks without images into ``labels/<id>.nii.gz``; finished ones are kept.

    Args:
        stage: the mask stage.
        job: what is to be made.

    Returns:
        The mask files.
    """
    g, schema = job.geometry, load_schema(job.geometry.schema)
    paths = [job.out / "labels" / f"{job.name(v)}.nii.gz" for v in range(job.num)]
    affine = ras_affine(g.size, g.spacing, schema.slice_axis)
    with exclusive(job.out):
        missing = [v for v, path in enumerate(paths) if not path.exists()]
        for group in sorted({v // g.batch_volumes for v in missing}):
            volumes = tuple(range(group * g.batch_volumes, (group + 1) * g.batch_volumes))
            starts = None if job.start is None else (job.start,) * len(volumes)
            batch = stage(PairBatch(volumes, job.seed, schema, g.spacing, g.size, starts))
            if batch.label_VDHW is None:
                raise MedpairError("stage: it made no masks; give a mask stage")
            for volume in missing:
                if volume in volumes:
                    label = batch.label_VDHW[volume - volumes[0]].numpy()
                    write_volume(paths[volume], from_dhw(label, schema.slice_axis), affine)
    return paths


# --- stages --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenedStage:
    """A stage and what identifies it: bundle and hash of its weights."""

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
    path = weights_path(bundle, preset, weights)
    workflow = _workflow(bundle, "inference", preset, {"weights": str(path), "preset": preset})
    stage: Stage = workflow.parser.get_parsed_content("stage")
    return OpenedStage(stage, {"bundle": bundle, "weights_sha256": sha256(path)})


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


def _workflow(bundle: str, kind: str, preset: str, overrides: Mapping[str, Any]) -> ConfigWorkflow:
    configs = bundles_dir() / bundle / "configs"
    overlay = configs / "presets" / f"{preset}.yaml"
    files = [str(configs / f"{kind}.yaml")] + ([str(overlay)] if overlay.is_file() else [])
    logging.getLogger("monai.bundle").setLevel(logging.WARNING)
    logging.getLogger("BundleWorkflow").setLevel(logging.WARNING)
    workflow = ConfigWorkflow(
        config_file=files,
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type="train" if kind == "train" else "infer",
        **overrides,
    )
    workflow.initialize()
    return workflow


def read_pipeline(name: str) -> dict[str, Any]:
    """Return the content of a pipeline's config file.

    Raises:
        MedpairError: if there is none of that name.
    """
    path = bundles_dir() / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(pipelines()) or "none"
        raise MedpairError(f"pipeline {name!r} is unknown, wanted one of {known}; name one of them")
    return dict(ConfigParser.load_config_file(str(path)))


def preset_geometry(
    presets: Mapping[str, Mapping[str, Any]], preset: str, depth: int | None = None
) -> Geometry:
    """Return the geometry of a preset, with another depth if asked.

    Raises:
        MedpairError: for an unknown preset.
    """
    if preset not in presets:
        raise MedpairError(f"preset {preset!r} is unknown, wanted one of {', '.join(presets)}")
    entry = presets[preset]
    d, h, w = entry["size"]
    spacing = entry["spacing"]
    return Geometry(
        entry["schema"],
        (depth if depth is not None else d, h, w),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        dict(entry["intensity"]),
        int(entry.get("batch_volumes", 1)),
    )


def choose_stages(
    stages: Sequence[Mapping[str, str]], only: Sequence[str] | None
) -> list[Mapping[str, str]]:
    """Return the stages to run, in the pipeline's order.

    Raises:
        MedpairError: for an unknown name.
    """
    names = [stage["name"] for stage in stages]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise MedpairError(f"--stages: {unknown[0]!r} is unknown, wanted some of {', '.join(names)}")
    return [stage for stage in stages if only is None or stage["name"] in only]


# --- train and evaluate --------------------------------------------------------------------------


def train(
    pipeline: str,
    *,
    data: Path,
    out: Path,
    preset: str | None = None,
    max_iterations: int | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> None:
    """Train the stages of a pipeline in order; called again, it continues.

    Args:
        pipeline: name of a pipeline in `bundles/`.
        data: pair set of real scans.
        out: gets a folder per bundle with checkpoints, logs, pictures and ``model.pt``.
        preset: size; None takes the pipeline's default.
        max_iterations: length of each stage's training; None takes the preset's.
        resume: continue from the newest checkpoint.
        progress: called with (stage, done, total) between stages.

    Raises:
        MedpairError: for unknown names, or data that do not fit the preset.
    """
    config = read_pipeline(pipeline)
    preset = preset or config["preset"]
    geometry = preset_geometry(config["presets"], preset)
    _check_data(PairSet.open(data), geometry, preset)
    stages = config["stages"]
    for index, stage in enumerate(stages):
        (progress or silent)(f"train {stage['name']}", index, len(stages))
        overrides: dict[str, Any] = {
            "dataset_dir": str(Path(data).absolute()),
            "output_dir": str(Path(out).absolute() / stage["bundle"]),
            "preset": preset,
            "resume": resume,
        }
        if max_iterations is not None:
            overrides["max_iterations"] = max_iterations
        _workflow(stage["bundle"], "train", preset, overrides).run()
        (progress or silent)(f"train {stage['name']}", index + 1, len(stages))


def _check_data(pairs: PairSet, geometry: Geometry, preset: str) -> None:
    size = pairs.size
    if pairs.schema.name != geometry.schema or size is None or size[1:] != geometry.size[1:]:
        d, h, w = geometry.size
        raise MedpairError(
            f"{pairs.dir}: schema {pairs.schema.name}, size {size}; preset {preset} wants "
            f"{geometry.schema}, {d}x{h}x{w}; medpair prepare --schema {geometry.schema} "
            f"--size {d}x{h}x{w} --spacing {geometry.spacing[0]:g}"
        )


def evaluate(bundle: str, *, data: Path, synthetic: Path, out: Path) -> Path:
    """Run a bundle's evaluate config on a real and a generated pair set.

    Args:
        bundle: folder name in `bundles/`.
        data: pair set of real scans.
        synthetic: generated pair set.
        out: gets ``report.json``.

    Returns:
        The report's path.
    """
    for folder in (data, synthetic):
        PairSet.open(folder)
    config = bundles_dir() / bundle / "configs" / "evaluate.yaml"
    if not config.is_file():
        raise MedpairError(f"bundle {bundle!r} has no configs/evaluate.yaml; choose another bundle")
    start = time.perf_counter()
    workflow = ConfigWorkflow(
        config_file=str(config),
        meta_file=str(config.with_name("metadata.json")),
        logging_file=False,
        workflow_type="infer",
        dataset_dir=str(Path(data).absolute()),
        synthetic_dir=str(Path(synthetic).absolute()),
        output_dir=str(Path(out).absolute()),
    )
    workflow.initialize()
    workflow.run()
    logging.getLogger(__name__).info("evaluated in %.1f s", time.perf_counter() - start)
    return Path(out) / "report.json"
