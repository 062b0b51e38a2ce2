"""Processes that share a generation: every pair once, bytes as of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import pipeline
from common.data.datasets import PairSet
from common.errors import MedpairError
from common.io.lock import exclusive, shared
from common.jobs import Part
from common.runs import run_stages
from common.slurm import write_array
from tests.common.test_jobs import STAGES, job, tree

ROOT = Path(__file__).parents[2]
ONE_PART = """
import sys, time
from pathlib import Path
from common.jobs import Part
from common.runs import run_stages
from tests.common.test_jobs import STAGES, job

def slowly(stage):
    def run(batch):
        time.sleep(0.05)
        return stage(batch)
    return run

stages = {name: slowly(stage) for name, stage in STAGES.items()}
run_stages(stages, job(Path(sys.argv[1]), 13), {}, part=Part(int(sys.argv[2]), 3))
"""


@given(st.integers(1, 9), st.lists(st.integers(0, 99), max_size=20))
def test_every_batch_is_of_one_part(of: int, groups: list[int]) -> None:
    parts = [Part(index, of) for index in range(of)]
    assert all(sum(part.takes(group) for part in parts) == 1 for group in groups)


@pytest.mark.parametrize(
    ("index", "of", "word"), [(2, 2, "--part-id"), (-1, 2, "--part-id"), (0, 0, "--num-parts")]
)
def test_parts_that_are_none_are_refused(index: int, of: int, word: str) -> None:
    with pytest.raises(MedpairError, match=word):
        Part(index, of)


def test_parts_one_after_the_other_make_the_whole(tmp_path: Path) -> None:
    run_stages(STAGES, job(tmp_path / "whole", 7), {})
    for index in (2, 0, 1):
        run_stages(STAGES, job(tmp_path / "parts", 7), {}, part=Part(index, 3))
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_parts_at_the_same_time_make_the_whole(tmp_path: Path) -> None:
    run_stages(STAGES, job(tmp_path / "whole", 13), {})
    command = [sys.executable, "-c", ONE_PART, str(tmp_path / "parts")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen([*command, str(i)], env=environment, cwd=ROOT) for i in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    lines = (tmp_path / "parts" / "run.jsonl").read_text().splitlines()
    made = Counter(v for line in lines for v in json.loads(line)["volumes"])
    assert set(made.values()) == {len(STAGES)}  # no batch twice


def test_a_part_and_a_whole_run_do_not_share(tmp_path: Path) -> None:
    with shared(tmp_path, "part-0-of-2"), pytest.raises(MedpairError, match="another run"):
        run_stages(STAGES, job(tmp_path), {})
    with exclusive(tmp_path), pytest.raises(MedpairError, match="another run"):
        run_stages(STAGES, job(tmp_path), {}, part=Part(0, 2))
    with shared(tmp_path, "part-0-of-2"), pytest.raises(MedpairError, match="another run"):
        run_stages(STAGES, job(tmp_path), {}, part=Part(0, 2))
    with shared(tmp_path, "part-0-of-2"):
        run_stages(STAGES, job(tmp_path), {}, part=Part(1, 2))
    assert PairSet.open(tmp_path).ids() == ("s7_00002", "s7_00003")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `generate` asks of the pipeline."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(
        pipeline, "generate_pipeline", lambda *_, **words: seen.append(words) or words["out"]
    )
    return seen


def test_generate_hands_its_part_on(told: list[dict[str, Any]], tmp_path: Path) -> None:
    words: dict[str, Any] = {"num": 8, "seed": 0, "out": tmp_path / "a"}
    pipeline.generate("medgen3d", **words, num_parts=4, part_id=3)
    pipeline.generate("medgen3d", **words, engine="ray", workers=5)
    assert [(w["part"], w["workers"]) for w in told] == [(Part(3, 4), None), (Part(), 5)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"num_parts": 4}, r"--part-id is missing, wanted 0\.\.3"),
        ({"part_id": 1}, r"--part-id: 1, wanted 0\.\.0"),
        ({"engine": "cloud"}, "'cloud' is unknown, wanted one of local, ray, slurm-array"),
        ({"engine": "slurm-array"}, r"--num-parts: 1, wanted >= 2"),
    ],
)
def test_wrong_words_are_named(
    told: list[dict[str, Any]], tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(MedpairError, match=message):
        pipeline.generate("medgen3d", num=8, seed=0, out=tmp_path / "a", **words)
    assert not told
    assert not any(tmp_path.iterdir())


def test_the_array_asks_for_all_that_was_said(told: list[dict[str, Any]], tmp_path: Path) -> None:
    said: dict[str, Any] = {"num": 8, "seed": 5, "stages": ["mask", "image"], "gate": False}
    array: dict[str, Any] = {"engine": "slurm-array", "num_parts": 4}
    script = pipeline.generate("medgen3d", out=tmp_path / "my pairs", **said, **array)
    text = script.read_text()
    assert script == tmp_path / "my pairs.sbatch"
    assert "#SBATCH --array=0-3" in text
    for words in ("generate medgen3d", "--num 8 --seed 5", "--stages mask,image", "--no-gate"):
        assert words in text
    assert f"'{tmp_path}/my pairs'" in text
    assert not told


def run_array(script: Path, parts: int) -> None:
    """Do what Slurm does: run the body once per task."""
    for part in range(parts):
        environment = os.environ | {
            "SLURM_ARRAY_TASK_ID": str(part),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        subprocess.run(["bash", str(script)], env=environment, check=True, capture_output=True)


def test_the_array_makes_every_pair_once(tmp_path: Path) -> None:
    words = ["generate", "medgen3d", "--n", "3", "--no-gate", "--stages", "mask,image"]
    run_array(write_array([*words, "--out", str(tmp_path / "a")], tmp_path / "a", 2), 2)
    whole = [sys.executable, "-m", "medpair", *words, "--out", str(tmp_path / "b")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(whole, env=environment, check=True, capture_output=True)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def dying_stages(flag: str) -> dict[str, Any]:
    """Stages of which the first kills its process once."""

    def die(batch: Any) -> Any:
        path = Path(flag)
        if batch.volumes[0] == 4 and not path.exists():
            path.touch()
            os._exit(1)
        return STAGES["mask"](batch)

    return {"mask": die, "image": STAGES["image"]}


def broken_stages() -> dict[str, Any]:
    """A stage that finds fault with its user."""

    def refuse(batch: Any) -> Any:
        raise MedpairError("weights: of another schema; use others")

    return {"mask": refuse}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("ray", reason="needs medpair[ray]")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the actors
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return found


@pytest.mark.optional_tool("ray")
@pytest.mark.filterwarnings("default")
def test_ray_makes_every_pair_once_though_an_actor_is_killed(ray: Any, tmp_path: Path) -> None:
    from functools import partial

    from common.ray_engine import RayEngine

    run_stages(STAGES, job(tmp_path / "whole", 9), {})
    flag = tmp_path / "died"
    engine = RayEngine(partial(dying_stages, str(flag)), workers=2)
    run_stages({}, job(tmp_path / "ray", 9), {}, engine=engine)
    assert flag.exists()
    assert engine.deaths == {2: 1}
    assert tree(tmp_path / "ray") == tree(tmp_path / "whole")
    lines = (tmp_path / "ray" / "run.jsonl").read_text().splitlines()
    made = Counter(v for line in lines for v in json.loads(line)["volumes"])
    assert set(made.values()) == {len(STAGES)}


@pytest.mark.optional_tool("ray")
@pytest.mark.filterwarnings("default")
def test_what_a_stage_says_in_an_actor_is_said_plainly(ray: Any, tmp_path: Path) -> None:
    from common.ray_engine import RayEngine

    with pytest.raises(MedpairError, match="weights: of another schema; use others"):
        run_stages({}, job(tmp_path / "ray", 2), {}, engine=RayEngine(broken_stages, workers=1))


@pytest.mark.optional_tool("ray")
@pytest.mark.filterwarnings("default")
def test_ray_gives_the_bytes_of_the_local_engine(
    ray: Any, tmp_path: Path, one_thread: None
) -> None:
    words: dict[str, Any] = {"num": 5, "seed": 0, "stages": ["mask", "image"], "gate": False}
    pipeline.generate("medgen3d", out=tmp_path / "local", **words)
    pipeline.generate("medgen3d", out=tmp_path / "ray", engine="ray", workers=2, **words)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_without_ray_the_repair_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from common.ray_engine import RayEngine

    monkeypatch.setattr("common.ray_engine.find_spec", lambda name: None)
    with pytest.raises(MedpairError, match=r"pip install 'medpair\[ray\]', or --engine local"):
        run_stages(STAGES, job(tmp_path), {}, engine=RayEngine(broken_stages))
    with pytest.raises(MedpairError, match="--workers: 0, wanted >= 1"):
        RayEngine(broken_stages, workers=0)
