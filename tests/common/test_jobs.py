"""The job runner with stages whose output is known."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.datasets import PairSet
from common.data.pairs import PairBatch
from common.diffusion.rng import normal
from common.errors import MedpairError
from common.io.lock import exclusive
from common.jobs import Geometry, Job, run_stages, stage_job, write_masks

INTENSITY = {"method": "percentile", "lower": 0.0, "upper": 1000.0}
GEOMETRY = Geometry("brain4", (6, 8, 8), (4.0, 4.0, 4.0), INTENSITY, batch_volumes=2)


def masks(batch: PairBatch) -> PairBatch:
    """Labels that depend on seed and volume number alone."""
    shape = {"volume": batch.volumes, "stage": 9, "window": [0] * len(batch.volumes), "step": 0}
    noise = normal(batch.seed, shape=batch.size, **shape)  # type: ignore[arg-type]
    return replace(batch, label_VDHW=(noise * 2).abs().clamp(max=5).to(torch.uint8))


def images(batch: PairBatch) -> PairBatch:
    """Images that repeat the labels."""
    assert batch.label_VDHW is not None
    return replace(batch, image_VDHW=batch.label_VDHW.float() / 5 * 2 - 1)


STAGES = {"mask": masks, "image": images}


def tree(folder: Path) -> dict[str, str]:
    """Hashes of all files but the log of seconds."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "run.jsonl")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def job(out: Path, num: int = 5, **changes: object) -> Job:
    return replace(Job(out, num, 7, GEOMETRY), **changes)  # type: ignore[arg-type]


def test_pairs_hold_what_the_stages_made(tmp_path: Path) -> None:
    pairs = run_stages(STAGES, job(tmp_path / "a", 3), {})
    assert pairs.ids() == ("s7_00000", "s7_00001", "s7_00002")
    expected = masks(PairBatch((2, 3), 7, pairs.schema, (4.0,) * 3, (6, 8, 8))).label_VDHW
    assert expected is not None
    pair = pairs.read("s7_00002")
    np.testing.assert_array_equal(pair.label, expected[0].numpy())
    np.testing.assert_allclose(pair.image, pair.label / 5, atol=1e-6)
    np.testing.assert_allclose(np.abs(np.diag(pair.affine)), [4, 4, 4, 1])


def test_growing_n_keeps_bytes(tmp_path: Path) -> None:
    run_stages(STAGES, job(tmp_path / "whole", 5), {})
    run_stages(STAGES, job(tmp_path / "grown", 1), {})
    run_stages(STAGES, job(tmp_path / "grown", 4), {})
    run_stages(STAGES, job(tmp_path / "grown", 5), {})
    assert tree(tmp_path / "grown") == tree(tmp_path / "whole")


def test_an_interrupted_job_finishes_with_equal_bytes_and_no_work_twice(tmp_path: Path) -> None:
    run_stages(STAGES, job(tmp_path / "whole"), {})
    calls: list[tuple[int, ...]] = []

    def fails_once(batch: PairBatch) -> PairBatch:
        calls.append(batch.volumes)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return masks(batch)

    stages = {"mask": fails_once, "image": images}
    with pytest.raises(KeyboardInterrupt):
        run_stages(stages, job(tmp_path / "cut"), {})
    assert len(PairSet.open(tmp_path / "cut").ids()) == 2
    run_stages(stages, job(tmp_path / "cut"), {})
    assert calls == [(0, 1), (2, 3), (2, 3), (4, 5)]
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_a_finished_job_calls_no_stage(tmp_path: Path) -> None:
    run_stages(STAGES, job(tmp_path), {})
    before = tree(tmp_path)
    run_stages({"mask": lambda batch: pytest.fail("called")}, job(tmp_path), {})
    assert tree(tmp_path) == before


def test_seconds_and_memory_stand_in_the_log_only(tmp_path: Path) -> None:
    run_stages(STAGES, job(tmp_path, 1), {})
    lines = [json.loads(x) for x in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["mask", "image"]
    assert all(line["seconds"] >= 0 and line["peak_memory_gb"] > 0 for line in lines)
    assert "seconds" not in (tmp_path / "manifest.jsonl").read_text()


def test_every_line_of_the_manifest_says_what_made_its_pair(tmp_path: Path) -> None:
    pairs = run_stages(STAGES, job(tmp_path, 2, start=1), {"preset": "tiny"})
    for volume, identity in enumerate(pairs.ids()):
        record = pairs.record(identity)
        assert (record["source"], record["seed"], record["volume"]) == ("generated", 7, volume)
        assert record["parameters"] == {
            "preset": "tiny",
            "seed": 7,
            "start": 1,
            "batch_volumes": 2,
        }
        assert record["versions"]["torch"] == version("torch")


def test_masks_of_a_pair_set_replace_the_mask_stage(tmp_path: Path) -> None:
    source = run_stages(STAGES, job(tmp_path / "a", 2), {})
    made = run_stages({"image": images}, job(tmp_path / "b", 3), {}, masks=source)
    for one, other in zip(made.ids(), (*source.ids(), source.ids()[0]), strict=True):
        np.testing.assert_array_equal(made.read(one).label, source.read(other).label)


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    source = run_stages(STAGES, job(tmp_path / "a", 1), {})
    deeper = replace(GEOMETRY, size=(7, 8, 8))
    with pytest.raises(MedpairError, match="prepare it for this preset"):
        run_stages({"image": images}, job(tmp_path / "b", 1, geometry=deeper), {}, masks=source)


def test_nan_is_never_written(tmp_path: Path) -> None:
    def broken(batch: PairBatch) -> PairBatch:
        return replace(batch, image_VDHW=torch.full((2, *batch.size), torch.nan))

    with pytest.raises(MedpairError, match="NaN in the image"):
        run_stages({"mask": masks, "image": broken}, job(tmp_path), {})
    assert not list(tmp_path.rglob("*.nii.gz"))
    assert PairSet.open(tmp_path).ids() == ()


def test_stages_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedpairError, match="made no images"):
        run_stages({"mask": masks}, job(tmp_path), {})


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    run_stages(STAGES, job(tmp_path, 1), {"preset": "tiny"})
    with pytest.raises(MedpairError):
        run_stages(STAGES, job(tmp_path, 1), {"preset": "small"})
    with pytest.raises(MedpairError):
        run_stages(STAGES, job(tmp_path, 1, seed=8), {"preset": "tiny"})


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(MedpairError, match="another run"):
        run_stages(STAGES, job(tmp_path), {})


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    run_stages(STAGES, job(tmp_path / "a", 1), {})
    leftover = tmp_path / "a" / "images" / ".tmp-99999-s7_00001.nii.gz"
    leftover.write_bytes(b"half")
    run_stages(STAGES, job(tmp_path / "a", 1), {})
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num": 0}, "--n: 0, wanted >= 1"),
        ({"seed": -1}, "--seed: -1"),
        ({"start": 6}, r"--start: 6, wanted 0\.\.5"),
        ({"geometry": replace(GEOMETRY, size=(0, 8, 8))}, "--depth: 0, wanted >= 1"),
    ],
)
def test_numbers_outside_their_range_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(MedpairError, match=message):
        job(tmp_path / "none", **changes)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_masks_alone_are_written_once_per_volume(tmp_path: Path) -> None:
    alone = stage_job(tmp_path, 3, 7, "brain4", (6, 8, 8), (4.0, 4.0, 4.0), batch_volumes=2)
    first = write_masks(masks, alone)
    assert [path.name for path in first] == [f"s7_0000{i}.nii.gz" for i in range(3)]
    before = tree(tmp_path)
    write_masks(lambda batch: pytest.fail("called"), alone)
    assert tree(tmp_path) == before
