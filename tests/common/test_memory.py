"""What fits into memory: measured needs, what is free, and the refusal before work begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common import memory, pipeline
from common.errors import MedpairError
from common.memory import PROCESS_GIB, check_memory, free_gib, needed_gib

GIB_KIB = 1 << 20
PRESET = {"memory_gib": {"mask": 0.6, "image": 0.9}}


def machine(folder: Path, free: float, held: float = 0.5, groups: str = "0::/\n") -> None:
    """Write what Linux says, in GiB, into a folder."""
    (folder / "proc" / "self").mkdir(parents=True)
    text = f"MemTotal: 1 kB\nMemAvailable: {int(free * GIB_KIB)} kB\nSwapFree: 0 kB\n"
    (folder / "proc" / "meminfo").write_text(text)
    status = f"Name:\tpython\nVmRSS:\t{int(held * GIB_KIB)} kB\n"
    (folder / "proc" / "self" / "status").write_text(status)
    (folder / "proc" / "self" / "cgroup").write_text(groups)


def limit(folder: Path, names: tuple[str, str, str], most: str, used: float, cache: float) -> None:
    """Write a control group, in GiB."""
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(most + "\n")
    (folder / names[1]).write_text(str(int(used * 2**30)))
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {int(cache * 2**30)}\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    return tmp_path


def test_the_need_is_that_of_the_hungriest_stage_that_runs() -> None:
    assert needed_gib(PRESET, ["mask", "image"]) == 0.9
    assert needed_gib(PRESET, ["mask"]) == 0.6
    assert needed_gib(PRESET, ["mask", "refine"]) is None  # not measured
    assert needed_gib({}, ["mask"]) is None
    counted = {**PRESET, "counted_gib": {"mask": 9.0, "refine": 1.0}}
    assert needed_gib(counted, ["mask", "refine"]) == 1.0 + PROCESS_GIB  # measured comes first


def test_what_this_process_holds_counts_as_free(root: Path) -> None:
    machine(root, free=2.0, held=0.5)
    assert free_gib() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("place", "names", "line"),
    [
        ("job", ("memory.max", "memory.current", "inactive_file"), "0::/job/step\n"),
        (
            "memory/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            "4:memory:/job/step\n3:cpu:/\n",
        ),
    ],
)
def test_a_control_group_above_the_process_limits_it(
    root: Path, place: str, names: tuple[str, str, str], line: str
) -> None:
    machine(root, free=8.0, held=0.5, groups=line)
    limit(root / "cgroup" / place, names, str(2 * 2**30), used=1.5, cache=0.25)
    assert free_gib() == pytest.approx(2.0 - 1.5 + 0.25 + 0.5)


def test_a_control_group_without_a_limit_takes_nothing(root: Path) -> None:
    machine(root, free=8.0, held=0.0, groups="0::/job\n")
    limit(root / "cgroup" / "job", ("memory.max", "memory.current", "inactive_file"), "max", 1.5, 0)
    assert free_gib() == pytest.approx(8.0)


def test_where_nothing_is_known_nothing_is_refused(root: Path) -> None:
    assert free_gib() is None  # no /proc, as on macOS
    check_memory(1000.0, "tiny")
    machine(root, free=0.1, held=0.0)
    check_memory(None, "base")


def test_too_little_is_refused_with_both_numbers(root: Path) -> None:
    machine(root, free=0.25, held=0.25)
    with pytest.raises(MedpairError, match=r"0\.50 GiB free, preset tiny needs 0\.90 GiB"):
        check_memory(0.9, "tiny")
    check_memory(0.5, "tiny")


@pytest.mark.parametrize("name", ["medgen3d", "gem3d"])
def test_the_shipped_presets_are_measured_for_their_stages(name: str) -> None:
    config = pipeline.read_pipeline(name)
    names = [stage["name"] for stage in config["stages"]]
    assert 0.3 < (needed_gib(config["presets"]["tiny"], names) or 0) < 2
    for entry in config["presets"].values():
        assert set(entry.get("memory_gib", {})) <= set(names)


def generate(out: Path, **words: Any) -> Path:
    return pipeline.generate("medgen3d", num=1, seed=0, out=out, **words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="measured on a CPU")
def test_generate_refuses_before_it_opens_a_stage(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(root, free=0.1, held=0.4)

    def opened(*_: Any) -> None:
        raise MedpairError("opened")

    monkeypatch.setattr(pipeline, "_open", opened)
    with pytest.raises(MedpairError, match=r"^memory: 0\.50 GiB free, preset tiny needs"):
        generate(root / "out")
    assert not (root / "out").exists()
    with pytest.raises(MedpairError, match="opened"):
        generate(root / "out", depth=16)  # not known
    for words in ({"depth": 96}, {"preset": "base"}):  # the one needs no less, the other is counted
        with pytest.raises(MedpairError, match=r"^memory: "):
            generate(root / "out", **words)
