"""The job runner with stages whose output is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.attempts import attempt_seed
from common.data.datasets import PairSet
from common.data.pairs import PairBatch
from common.data.sidesets import take_out
from common.diffusion.rng import normal
from common.errors import IncompleteError, MedpairError
from common.io.lock import exclusive
from common.jobs import Geometry, Job, Part
from common.runs import run_stages

TIMED = ("run.jsonl", "report.html")  # they hold seconds
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
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in TIMED)
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
    assert not (tmp_path / "b").exists()


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


REFUSED = ((1, 0), (2, 0), (2, 1), (4, 0))
"""Volumes and attempts in which the gate below finds a fault."""


class Gate:
    """Finds faults in known attempts, and NaN."""

    def __init__(self, refused: tuple[tuple[int, int], ...] = REFUSED) -> None:
        self.refused, self.seen = refused, list[tuple[tuple[int, ...], int]]()

    def __call__(self, batch: PairBatch) -> PairBatch:
        assert batch.image_VDHW is not None
        attempt = [attempt_seed(7, a) for a in range(9)].index(batch.seed)
        self.seen.append((batch.volumes, attempt))
        broken = batch.image_VDHW.isnan().flatten(1).any(dim=1).tolist()
        faults = [
            (f"fault of {volume}",) if (volume, attempt) in self.refused else ()
            for volume in batch.volumes
        ]
        return replace(
            batch, faults=tuple(("NaN",) if b else f for b, f in zip(broken, faults, strict=True))
        )


def gated(gate: Gate | None = None) -> dict[str, Any]:
    return {**STAGES, "gate": gate or Gate()}


def test_attempts_have_seeds_of_their_own() -> None:
    seeds = [attempt_seed(seed, attempt) for seed in (0, 1, 2**64 - 1) for attempt in range(4)]
    assert seeds[::4] == [0, 1, 2**64 - 1]
    assert len(set(seeds)) == 12
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_a_refused_pair_is_made_again_and_kept_beside(tmp_path: Path) -> None:
    gate = Gate()
    pairs = run_stages(gated(gate), job(tmp_path, retries=2), {})
    assert len(pairs.ids()) == 5
    assert gate.seen == [((0, 1), 0), ((0, 1), 1), ((2, 3), 0), ((2, 3), 1), ((2, 3), 2),
                         ((4, 5), 0), ((4, 5), 1)]  # fmt: skip
    verdicts = [pairs.record(name)["gate"] for name in pairs.ids()]
    assert [v["attempts"] for v in verdicts] == [1, 2, 3, 1, 2]
    assert all(v["passed"] for v in verdicts)
    record = pairs.record("s7_00002")
    assert (record["seed"], record["volume"]) == (7, 2)
    assert record["noise_seed"] == attempt_seed(7, 2)
    again = masks(PairBatch((2, 3), attempt_seed(7, 2), pairs.schema, (4.0,) * 3, (6, 8, 8)))
    assert again.label_VDHW is not None
    np.testing.assert_array_equal(pairs.read("s7_00002").label, again.label_VDHW[0].numpy())
    rejected = PairSet.open(tmp_path / "rejected")
    assert rejected.ids() == ("s7_00001_a0", "s7_00002_a0", "s7_00002_a1", "s7_00004_a0")
    assert rejected.record("s7_00002_a1")["faults"] == ["fault of 2"]
    first = masks(PairBatch((2, 3), 7, pairs.schema, (4.0,) * 3, (6, 8, 8))).label_VDHW
    assert first is not None
    np.testing.assert_array_equal(rejected.read("s7_00002_a0").label, first[0].numpy())


def test_pairs_that_pass_at_once_have_the_bytes_of_a_run_without_a_gate(tmp_path: Path) -> None:
    plain = run_stages(STAGES, job(tmp_path / "a"), {})
    run_stages(gated(), job(tmp_path / "b", retries=2), {})
    one, other = tree(tmp_path / "a"), tree(tmp_path / "b")
    for name in ("s7_00000", "s7_00003"):
        for kind in ("images", "labels"):
            file = f"{kind}/{name}.nii.gz"
            assert one[file] == other[file]
    assert one["labels/s7_00001.nii.gz"] != other["labels/s7_00001.nii.gz"]
    assert plain.record("s7_00000")["gate"] == "not run: no gate among the stages"


def test_a_pair_that_fails_all_attempts_is_named_and_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=r"gate: 1 of 5 .* all 2 attempts \(s7_00002\)"):
        run_stages(gated(), job(tmp_path, retries=1), {})
    pairs = PairSet.open(tmp_path)
    assert pairs.ids() == ("s7_00000", "s7_00001", "s7_00003", "s7_00004")
    assert (tmp_path / "contact_sheet.png").is_file()
    before = tree(tmp_path)
    with pytest.raises(IncompleteError, match="s7_00002"):
        run_stages({"mask": lambda batch: pytest.fail("called")}, job(tmp_path, retries=1), {})
    assert tree(tmp_path) == before
    gate = Gate()
    run_stages(gated(gate), job(tmp_path, retries=2), {})
    assert gate.seen == [((2, 3), 2)]
    run_stages(gated(), job(tmp_path / "whole", retries=2), {})
    one, other = tree(tmp_path / "whole"), tree(tmp_path)
    assert {k: v for k, v in other.items() if not k.startswith("whole")} == one


def test_nan_is_refused_and_its_copy_holds_numbers(tmp_path: Path) -> None:
    def broken_once(batch: PairBatch) -> PairBatch:
        made = images(batch).image_VDHW
        assert made is not None
        made[0, 0, 0, 0] = torch.nan if batch.seed == 7 else 0
        return replace(batch, image_VDHW=made)

    stages = {"mask": masks, "image": broken_once, "gate": Gate(())}
    pairs = run_stages(stages, job(tmp_path, 2, retries=1), {})
    assert pairs.record("s7_00000")["gate"] == {"passed": True, "attempts": 2}
    rejected = PairSet.open(tmp_path / "rejected")
    assert rejected.record("s7_00000_a0")["faults"] == ["NaN"]
    assert np.isfinite(rejected.read("s7_00000_a0").image).all()


@pytest.mark.parametrize("moment", range(1, 12))
def test_a_gated_job_interrupted_anywhere_ends_in_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """It stops before the n-th pair is written, into the set or among the refused ones."""
    whole = tmp_path / "whole"
    with pytest.raises(IncompleteError):
        run_stages(gated(), job(whole, retries=1), {})
    written = 0
    write = PairSet.write

    def stops(self: PairSet, *words: Any) -> Any:
        nonlocal written
        written += 1
        if written == moment:
            raise KeyboardInterrupt
        return write(self, *words)

    with monkeypatch.context() as patch:
        patch.setattr(PairSet, "write", stops)
        with pytest.raises((KeyboardInterrupt, IncompleteError)):
            run_stages(gated(), job(tmp_path / "cut", retries=1), {})
    with pytest.raises(IncompleteError):
        run_stages(gated(), job(tmp_path / "cut", retries=1), {})
    assert tree(tmp_path / "cut") == tree(whole)


def test_pairs_that_an_audit_took_out_are_not_made_again(tmp_path: Path) -> None:
    pairs = run_stages(STAGES, job(tmp_path, 2), {})
    take_out(pairs, {"s7_00001": "copy"}, quarantine=False)
    run_stages({"mask": lambda batch: pytest.fail("called")}, job(tmp_path, 2), {})
    assert PairSet.open(tmp_path).ids() == ("s7_00000",)
    assert run_stages(STAGES, job(tmp_path, 4), {}).ids() == ("s7_00000", "s7_00002", "s7_00003")


def test_the_sheet_shows_what_others_ended_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two parts end together: the one that waited for the lock draws the other's pairs, too."""
    shown: list[int] = []

    def draw(pairs: PairSet, _: Path) -> None:
        shown.append(len(pairs.ids()))

    monkeypatch.setattr("common.runs.contact_sheet", draw)
    others = [Part(1, 2)]

    @contextmanager
    def waiting(_: Path) -> Iterator[None]:
        while others:
            run_stages(STAGES, job(tmp_path, 4), {}, part=others.pop())
        yield

    monkeypatch.setattr("common.runs.brief", waiting)
    run_stages(STAGES, job(tmp_path, 4), {}, part=Part(0, 2))
    assert shown == [4, 4]
