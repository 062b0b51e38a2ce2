"""Memory: how much a preset needs where that was measured, and how much this machine has free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import MedpairError

MEMORY_KEY = "memory_gib"
"""Key of a preset in a pipeline: peak of the process at each stage on the CPU, in GiB, as
`benchmarks/memory.py` measures it."""

COUNTED_KEY = "counted_gib"
"""The same, counted from shapes where nobody measured it (`benchmarks/memory.py --count`): weights
and working memory of each stage, without the process itself."""

PROCESS_GIB = 0.5
"""Python and the libraries, as measured."""

_GIB = 2.0**30
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_LIMITS = (
    ("", "memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def needed_gib(preset: Mapping[str, Any], stages: Sequence[str]) -> float | None:
    """Return the memory that the stages of a preset need on the CPU, in GiB, measured or counted.

    Args:
        preset: entry of a pipeline's ``presets``.
        stages: names of those that run.

    Returns:
        The largest peak; None where one of the stages has none.
    """
    counted = {key: PROCESS_GIB + gib for key, gib in preset.get(COUNTED_KEY, {}).items()}
    peaks = counted | preset.get(MEMORY_KEY, {})
    if not stages or any(name not in peaks for name in stages):
        return None
    return float(max(peaks[name] for name in stages))


def is_counted(preset: Mapping[str, Any]) -> bool:
    """Return whether what a preset needs was counted, not measured."""
    return COUNTED_KEY in preset


def free_gib() -> float | None:
    """Return the memory that this process can have, with what it has, in GiB; None if unknown.

    That is what Linux calls available and free swap, or less where a control group (container,
    batch job) limits it.
    """
    try:
        machine = _table(_PROC / "meminfo")
        held = _table(_PROC / "self" / "status")["VmRSS"]
        free = min([machine["MemAvailable"] + machine["SwapFree"], *_group_kib()])
    except (OSError, KeyError, ValueError):
        return None
    return (free + held) * 1024 / _GIB


def check_memory(needed: float | None, preset: str) -> None:
    """Refuse work that does not fit into memory; nothing happens where a number is unknown.

    Args:
        needed: GiB.
        preset: its name, for the message.

    Raises:
        MedpairError: less is free.
    """
    free = free_gib()
    if needed is not None and free is not None and free < needed:
        raise MedpairError(
            f"memory: {free:.2f} GiB free, preset {preset} needs {needed:.2f} GiB on a "
            "CPU; end other programs, or choose a smaller --preset or fewer --stages"
        )


def _table(path: Path) -> dict[str, int]:
    """Read the numbers of a file with lines such as ``MemFree: 1234 kB`` or ``cache 1234``."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {
        words[0].rstrip(":"): int(words[1])
        for words in lines
        if len(words) > 1 and words[1].isdecimal()
    }


def _group_kib() -> Iterator[int]:
    """Yield what each control group above this process leaves free, in KiB."""
    for line in (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
        _, kind, place = line.split(":", 2)
        for controller, limit, usage, cache in _LIMITS:
            if kind == controller:
                top = _CGROUP / controller
                below = top / place.lstrip("/")
                for folder in (below, *below.parents):
                    if folder.is_relative_to(top) and (folder / limit).is_file():
                        yield from _left(folder, limit, usage, cache)


def _left(folder: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    most = (folder / limit).read_text(encoding="ascii").strip()
    if most != "max":
        used = int((folder / usage).read_text(encoding="ascii"))
        kept = _table(folder / "memory.stat").get(cache, 0)  # of files: given back when needed
        yield (int(most) - used + kept) // 1024
