"""One Markdown page from the JSON files of the speed benchmarks.

python benchmarks/speed_table.py FOLDER --out docs/benchmarks/speed.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.io.atomic import write_text

Report = Mapping[str, Any]
INTRO = Path(__file__).with_name("speed_intro.md")


def milliseconds(entry: Report) -> str:
    """Return median and range of a contestant."""
    least, middle, most = (f"{entry[k] * 1e3:.3g}" for k in ("least", "seconds", "most"))
    return f"{middle} ({least}-{most})"


def raced(times: Mapping[str, Report]) -> Iterator[str]:
    """Yield rows of contestants: ours first, then how many times longer the others take."""
    yield "| contestant | ms, median (range) | times ours |"
    yield "|---|---|---|"
    for name, entry in times.items():
        yield f"| {name} | {milliseconds(entry)} | {entry['ratio']:.2f} |"


def step(report: Report) -> Iterator[str]:
    """Yield the tables of R1."""
    for result in report["results"]:
        steps = report["options"]["steps"]
        gflop, share = 1e3 * result["tflop"] / steps, 100 * result["share_of_matmul"]
        yield f"\nBatch {result['batch']}, {steps} steps, {gflop:.3g} GFLOP a step; ours reaches"
        yield f"{share:.0f} % of what a matrix product does.\n"
        yield from raced(result["contestants"])
        yield "\nWithout guidance and known slices, which MONAI's inferer does not have:\n"
        yield from raced(result["without_guidance_and_overlap"])


def contestants(report: Report) -> Iterator[str]:
    """Yield the table of a race."""
    yield ""
    yield from raced(report["contestants"])


def depth(report: Report) -> Iterator[str]:
    """Yield the tables of R7."""
    for name, stage in report["stages"].items():
        yield f"\n{name}: slope within {100 * stage['slope_spread']:.0f} %, working memory from"
        yield f"the second depth on within {100 * stage['memory_spread']:.1f} %.\n"
        yield "| D | seconds | working memory, MiB | ms per added slice |"
        yield "|---|---|---|---|"
        slopes = ["", *(f"{1e3 * s:.3g}" for s in stage["seconds_per_added_slice"])]
        for row, slope in zip(stage["depths"], slopes, strict=True):
            memory = f"{row['working_gib'] * 1024:.0f}"
            yield f"| {row['depth']:.0f} | {row['seconds']:.2f} | {memory} | {slope} |"


def kernel_rows(report: Report) -> Iterator[str]:
    """Yield the table of R8."""
    yield "\n| shape | kernel | contestant | ms | GB/s | share of a copy |"
    yield "|---|---|---|---|---|---|"
    for result in report["results"].values():
        for kernel, found in result.items():
            if kernel == "shape":
                continue
            for name, entry in found["contestants"].items():
                reached = (
                    f"{found['gb_per_s'][name]:.3g} | {100 * found['share_of_copy'][name]:.0f} %"
                )
                shape = "x".join(map(str, result["shape"]))
                yield f"| {shape} | {kernel} | {name} | {entry['seconds'] * 1e3:.3g} | {reached} |"


def training(report: Report) -> Iterator[str]:
    """Yield the table of R6."""
    yield "\n| training | variant | windows/s, median (range) | waited | GFLOP a window |"
    yield "|---|---|---|---|---|"
    for name, variants in report["trainings"].items():
        for variant, e in variants.items():
            rate = f"{e['windows_per_s']:.3g} ({e['lowest']:.3g}-{e['highest']:.3g})"
            waited, cost = f"{100 * e['waited']:.1f} %", f"{e['gflop_per_window']:.3g}"
            yield f"| {name} | {variant} | {rate} | {waited} | {cost} |"


def parts(report: Report) -> Iterator[str]:
    """Yield the table of R9."""
    yield "\n| part | seconds, median (range) |"
    yield "|---|---|"
    for name, e in report["parts"].items():
        yield f"| {name} | {e['seconds']:.2f} ({e['least']:.2f}-{e['most']:.2f}) |"


def refiner(report: Report) -> Iterator[str]:
    """Yield the table of R3."""
    yield "\n| contestant | seconds, median of runs | times ours |"
    yield "|---|---|---|"
    for name, runs in report["seconds"].items():
        yield f"| {name} | {sorted(runs)[len(runs) // 2]:.3g} | {report['ratio'][name]:.2f} |"


def profiled(report: Report) -> Iterator[str]:
    """Yield the table of a profile."""
    yield "\n| stage | seconds | share | what they go to |"
    yield "|---|---|---|---|"
    for name, stage in report["stages"].items():
        first = ", ".join(f"{k} {100 * v:.0f} %" for k, v in list(stage["share"].items())[:4])
        yield f"| {name} | {stage['seconds']:.2f} | {100 * stage['share_of_all']:.0f} % | {first} |"


def found_by(key: str, report: Report) -> list[tuple[str, str]]:
    """Return what the summary says of a report: the figure's name and value."""
    if key == "r1":
        entry = next(r for r in report["results"] if r["batch"] == 1)
        precision = report["options"]["precision"]
        return [(f"step with guidance and known slices, batch 1, {precision}: naive loop / ours",
                 f"{entry['contestants']['naive loop']['ratio']:.2f}")]  # fmt: skip
    if key == "r2":
        return [("masks of D = 96: one window after the other / ours",
                 f"{report['contestants']['serial']['ratio']:.2f}")]  # fmt: skip
    if key == "r3":
        plain, forgetful = report["ratio"]["plain"], list(report["ratio"].values())[-1]
        return [
            ("refiner, 10 steps: slice by slice, nothing kept / ours", f"{plain:.2f}"),
            ("the same slices at once, modulations not kept / ours", f"{forgetful:.2f}"),
        ]
    if key == "r4":
        return [("GEM-3D volumes: plain loop / ours",
                 f"{report['contestants']['plain loop']['ratio']:.2f}")]  # fmt: skip
    if key == "r6":
        rates = {
            name: {variant: found["windows_per_s"] for variant, found in variants.items()}
            for name, variants in report["trainings"].items()
        }
        return [
            (f"{name}: windows/s as shipped / plain", f"{r['as shipped'] / r['plain']:.2f}")
            for name, r in rates.items()
        ]
    if key == "r7":
        return [
            (
                f"{name}: seconds per added slice, working memory from about 96 to 384",
                f"within {100 * s['slope_spread']:.0f} %, within {100 * s['memory_spread']:.1f} %",
            )
            for name, s in report["stages"].items()
        ]
    return []


def summary(reports: list[tuple[str, Report]]) -> Iterator[str]:
    """Yield the table of what was wanted and found, on a CPU and on a GPU."""
    rows: dict[str, dict[str, str]] = {}
    for key, report in reports:
        kind = report.get("options", {}).get("device", "cpu")
        for name, value in found_by(key, report):
            rows.setdefault(f"{key.upper()} | {name}", {})[kind] = value
    yield "\n| | | CPU | CUDA GPU |"
    yield "|---|---|---|---|"
    for name, values in rows.items():
        yield f"| {name} | {values.get('cpu', MISSING)} | {values.get('cuda', MISSING)} |"


MISSING = "not measured"
TABLES = {
    "r1": ("R1: a sampling step", step),
    "r2": ("R2: a mask volume", contestants),
    "r3": ("R3: the refiner", refiner),
    "r4": ("R4: a GEM-3D volume", contestants),
    "r6": ("R6: training updates", training),
    "r7": ("R7: depth", depth),
    "r8": ("R8: kernels", kernel_rows),
    "r9": ("R9: cold start", parts),
    "profile": ("Where the time goes", profiled),
}


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    found = [
        (key, path, json.loads(path.read_text(encoding="utf-8")))
        for key in TABLES
        for path in sorted(words.folder.glob(f"{key}*.json"))
    ]
    lines = [INTRO.read_text(encoding="utf-8").rstrip()]
    lines += summary([(key, report) for key, _, report in found])
    for key, path, report in found:
        title, table = TABLES[key]
        options = report.get("options", report)
        said = ", ".join(f"{k} {v}" for k, v in options.items() if isinstance(v, str | int | float))
        lines.append(f"\n## {title} ({path.stem})\n")
        lines.append(f"{report['device']}, {report['threads']} threads; {said[:300]}.")
        lines += table(report)
    write_text(words.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
