"""Pipelines: chains of bundles that generate pair sets; training of their stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from common.bundles import pipeline_file
from common.data.compact import CompactSet, open_set
from common.data.datasets import PairSet
from common.engines.device import pick_device
from common.engines.handlers import report_iterations
from common.errors import IncompleteError, MedpairError
from common.gating import StageEntry, is_gate, own_weights, without_gate
from common.jobs import Geometry, Job, Part, Stage
from common.memory import check_memory, needed_gib
from common.progress import Progress
from common.report.page import update_report
from common.running import Running
from common.runs import Engine, run_stages
from common.slurm import write_array
from common.stages import OpenedStage, open_stage, open_workflow, plain_errors
from common.training import (
    FAST,
    check_training_memory,
    free_memory,
    length_of,
    memory_errors,
    trainings,
)

ENGINES = ("local", "ray", "slurm-array")


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
    """Generate pairs with a pipeline of `bundles/`; see `generate_pipeline`.

    Args:
        pipeline: name of a pipeline, such as "medgen3d".
        num: pairs wanted, >= 1.
        seed: the run's seed, 0..2^64-1.
        out: folder of the pair set.
        preset: size; None takes the pipeline's default.
        depth: slices D; None takes the preset's.
        start: first generated slice; None draws it.
        weights: folder that `train` wrote; None takes the weights that ship.
        stages: names of the stages to run; None runs all.
        data: pair set whose masks and images replace those of left-out stages.
        gate: let a gate of the pipeline run where it can.
        engine: "local"; "ray"; "slurm-array", which only writes a script.
        workers: actors of "ray".
        num_parts: processes that share the job, each started with a part of its own.
        part_id: number of this one, 0..num_parts-1.
        batch_volumes: volumes made side by side; None takes the preset's.
        memory_gib: choose them by this memory budget in GiB.
        compile: torch.compile for the networks.
        exact: see `common.running.Running`.
        progress: called with (task, done, total).

    Returns:
        The pair set's folder; the script for "slurm-array".

    Raises:
        MedpairError: as `generate_pipeline`, or for an unknown engine or a missing part.
    """
    config = read_pipeline(pipeline)
    running = Running(exact, compile, batch_volumes, memory_gib)
    _check_engine(engine, num_parts, part_id)
    words: dict[str, Any] = {"num": num, "seed": seed, "out": out, "depth": depth, "start": start}
    words |= {"weights": weights, "data": data}
    if engine == "slurm-array":
        more = {"preset": preset, "stages": ",".join(stages) if stages else None}
        flags = [*([] if gate else ["--no-gate"]), *running.words()]
        return write_array(["generate", pipeline, *_said(words | more), *flags], out, num_parts)
    return generate_pipeline(
        pipeline,
        config["stages"],
        config["presets"],
        **words,
        preset=preset or config["preset"],
        only=stages,
        gate=gate,
        workers=workers if engine == "ray" else None,
        part=Part(part_id or 0, num_parts),
        running=running,
        progress=progress,
    )


def _check_engine(engine: str, num_parts: int, part_id: int | None) -> None:
    if engine not in ENGINES:
        raise MedpairError(f"--engine: {engine!r} is unknown, wanted one of {', '.join(ENGINES)}")
    if engine != "slurm-array" and num_parts > 1 and part_id is None:
        raise MedpairError(f"--part-id is missing, wanted 0..{num_parts - 1} with --num-parts")


def _said(options: Mapping[str, Any]) -> list[str]:
    """Return options as words of a command line; those that are None are left out."""
    given = {key: value for key, value in options.items() if value is not None}
    full = {key: v.absolute() if isinstance(v, Path) else v for key, v in given.items()}
    return [word for key, value in full.items() for word in (f"--{key}", str(value))]


def generate_pipeline(
    name: str,
    stages: Sequence[StageEntry],
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
    gate: bool = True,
    workers: int | None = None,
    part: Part | None = None,
    running: Running | None = None,
    progress: Progress | None = None,
) -> Path:
    """Open the stages, generate the missing pairs, draw the contact sheet and write the report.

    Args:
        name: the pipeline's name, for the manifest.
        stages: ``name`` and ``bundle`` of each stage, in order; a gate also has ``by_default``,
            the presets for which it runs without being named, and ``retries``.
        presets: `Geometry` entries by preset.
        preset: which of them.
        num: pairs wanted, >= 1.
        seed: the run's seed, 0..2^64-1; equal seeds give equal bytes on one machine.
        out: folder of the pair set, new or begun with the same settings.
        depth: slices D; None takes the preset's.
        start: first generated slice, 0..D-1; None draws it per volume.
        weights: folder that `train` wrote; None takes the weights that ship.
        only: names of the stages to run; None runs all.
        data: pair set whose masks and images replace those of left-out stages.
        gate: False leaves a gate out; True lets it run where it is named, or where it can judge.
        workers: actors of Ray that make the batches; None makes them here.
        part: make only the batches of one part.
        running: exactness, compilation and batches; None takes the usual.
        progress: called with (task, done, total).

    Returns:
        The pair set's folder.

    Raises:
        MedpairError: for an unknown preset or stage, weights of another schema or preset, numbers
            outside their range, less free memory than the preset is known to need, or an output
            folder of other settings.
        IncompleteError: if a gate refused a pair in all attempts; the others are written.
    """
    geometry = preset_geometry(presets, preset, depth)
    chosen, ungated = without_gate(
        choose_stages(stages, only),
        named=only is not None,
        wanted=gate,
        preset=preset,
        other_depth=depth if geometry != preset_geometry(presets, preset) else None,
        weights=weights,
    )
    retries = max((int(s.get("retries", 0)) for s in chosen), default=0)
    running = running or Running()
    job = Job(Path(out), num, seed, geometry, start, retries, ungated)
    masks = PairSet.open(data) if data is not None else None
    if workers is None:
        _check_fits(presets[preset], geometry, [s["name"] for s in chosen], preset)
    opened = _open(chosen, preset, weights)
    runs = {key: s.run for key, s in opened.items()}
    job = replace(job, geometry=running.prepare(runs, geometry))
    judges = {s["name"] for s in chosen if is_gate(s)}
    made = {"pipeline": name, "preset": preset, **_identities(opened, judges)} | running.settings
    opening = partial(_callables, chosen, preset, weights, running)
    engine = None if workers is None else _ray(opening, workers, running)
    least = num if part and part.of > 1 else 1  # of parts, the last one writes the report
    with _reported(job.out, least), running.algorithms():
        run_stages(runs, job, made, masks, progress, part, engine)
    return job.out


def _identities(opened: Mapping[str, OpenedStage], judges: set[str]) -> dict[str, Any]:
    """Return what identifies the stages that make pairs, and beside them those that judge."""
    found = {key: stage.identity for key, stage in opened.items()}
    makers = {key: value for key, value in found.items() if key not in judges}
    return {"stages": makers, **{key: value for key, value in found.items() if key in judges}}


def _check_fits(
    entry: Mapping[str, Any], geometry: Geometry, stages: Sequence[str], preset: str
) -> None:
    """Refuse a preset that does not fit into memory, where that was measured: on the CPU."""
    shorter = geometry.size[0] < entry["size"][0]
    if not shorter and pick_device().type == "cpu":
        check_memory(needed_gib(entry, stages), preset)


@contextmanager
def _reported(out: Path, least: int) -> Iterator[None]:
    """Write the report of what the block generates, also where a gate refused some pairs."""
    try:
        yield
    except IncompleteError:
        update_report(out, least)
        raise
    update_report(out, least)


def _open(
    stages: Sequence[StageEntry], preset: str, weights: str | Path | None
) -> dict[str, OpenedStage]:
    held = {s["name"]: own_weights(s, weights) if is_gate(s) else weights for s in stages}
    return {s["name"]: open_stage(s["bundle"], preset, held[s["name"]]) for s in stages}


def _ray(opening: Callable[[], Mapping[str, Stage]], workers: int, running: Running) -> Engine:
    from common.ray_engine import RayEngine

    return RayEngine(opening, workers, running)


def _callables(
    stages: Sequence[StageEntry], preset: str, weights: str | Path | None, running: Running
) -> dict[str, Stage]:
    runs = {name: stage.run for name, stage in _open(stages, preset, weights).items()}
    running.accelerate(runs)
    return runs


def read_pipeline(name: str) -> dict[str, Any]:
    """Return the content of a pipeline's config file.

    Raises:
        MedpairError: if there is none of that name.
    """
    return dict(ConfigParser.load_config_file(str(pipeline_file(name))))


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


def choose_stages(stages: Sequence[StageEntry], only: Sequence[str] | None) -> list[StageEntry]:
    """Return the stages to run, in the pipeline's order.

    Raises:
        MedpairError: for an unknown name.
    """
    names = [stage["name"] for stage in stages]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise MedpairError(f"--stages: {unknown[0]!r} is unknown, wanted {', '.join(names)}")
    return [stage for stage in stages if only is None or stage["name"] in only]


def train(
    pipeline: str,
    *,
    data: Path,
    out: Path,
    preset: str | None = None,
    max_iterations: int | None = None,
    minutes: float | None = None,
    fast: bool = False,
    resume: bool = True,
    stages: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Train the stages of a pipeline in order; called again, it continues.

    A stage may name several ``trainings``, configs that are run in order, and their ``shares`` of
    its minutes.

    Args:
        pipeline: name of a pipeline in `bundles/`.
        data: pair set of real scans, or its file of `medpair export --format compact`.
        out: gets a folder per bundle with checkpoints, logs, pictures and ``model.pt``.
        preset: size; None takes the pipeline's default.
        max_iterations: length of each stage's training; None takes the preset's.
        minutes: wall-clock budget of each stage instead, see `common.engines.budget`.
        fast: use `common.training.FAST`.
        resume: continue from the newest checkpoint.
        stages: names of the stages to train; None trains all.
        progress: called with (training, done, total) after each iteration; in seconds where
            there are ``minutes``.

    Raises:
        MedpairError: for unknown names, data that do not fit the preset, or too few minutes.
    """
    length_of(max_iterations, minutes)  # both are refused before anything is read
    config = read_pipeline(pipeline)
    preset = preset or config["preset"]
    geometry = preset_geometry(config["presets"], preset)
    check_data(open_set(data), geometry, preset)
    chosen = choose_stages(config["stages"], stages)
    check_training_memory(config["presets"][preset], [s["name"] for s in chosen], preset)
    for stage, kind, share in trainings(chosen):
        overrides: dict[str, Any] = {
            "dataset_dir": str(Path(data).absolute()),
            "output_dir": str(Path(out).absolute() / stage["bundle"]),
            "preset": preset,
            "resume": resume,
        }
        overrides |= length_of(max_iterations, minutes, share) | (dict(FAST) if fast else {})
        if progress is not None:
            overrides["progress"] = False  # its own bar
        with memory_errors(preset), plain_errors():
            workflow = open_workflow(stage["bundle"], kind, preset, overrides)
            if progress is not None:
                trainer = workflow.parser.get_parsed_content("train#trainer")
                unit = "" if minutes is None else ", seconds"
                report_iterations(trainer, f"{kind} {stage['name']}{unit}", progress)
            workflow.run()
        del workflow
        free_memory()  # so that what the next one finds does not depend on this one


def check_data(pairs: PairSet | CompactSet, geometry: Geometry, preset: str) -> None:
    """Raise MedpairError unless a pair set has the schema and in-plane size of a preset."""
    size = pairs.size
    if pairs.schema.name != geometry.schema or size is None or size[1:] != geometry.size[1:]:
        d, h, w = geometry.size
        raise MedpairError(
            f"{pairs.dir}: schema {pairs.schema.name}, size {size}; preset {preset} wants "
            f"{geometry.schema}, {d}x{h}x{w}; medpair prepare --schema {geometry.schema} "
            f"--size {d}x{h}x{w} --spacing {geometry.spacing[0]:g}"
        )
