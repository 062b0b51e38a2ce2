"""docs/results.md from the results.json of each preset.

    python benchmarks/results_page.py docs/benchmarks/results --out docs/results.md

The folder holds one file per preset, as `results.py` writes it. What no file has is "not measured".
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.io.atomic import write_text

INTRO = Path(__file__).with_name("results_intro.md")
PRESETS = {"tiny": "4 mm (tiny)", "small": "2 mm (small)", "base": "1 mm (base)"}
MISSING = "not measured"
SEGMENTATION = "[measured apart](benchmarks/segmentation.md)"
VOLUMES = "[measured apart](benchmarks/gem3d.md)"
PHANTOMS = "no second set of brains; [on phantoms](benchmarks/segmentation.md#transfer-on-phantoms)"
Report = Mapping[str, Any]
Cell = Callable[[Report], str]

# what the papers print: other data, other networks for the features
MEDGEN3D_1 = {
    "DDPM (2D, per view)": ("34.9", "0.298"),
    "3D-alpha-WGAN": ("136.4", "0.289"),
    "Vid2Vid": ("48.2", "0.324"),
    "MedGen3D": ("40.3", "0.326"),
}
MEDGEN3D_3 = {"E2-1": "0.951", "E2-2": "0.936", "E2-3": "0.953", "E2-4": "0.955", "E2-5": "0.954"}
MEDGEN3D_4 = {"E3-1": "0.946", "E3-2": "0.948", "E3-3": "0.949", "E3-4": "0.949"}
GEM3D_1 = {
    "MAV": "12.96, 62.63, 62.04",
    "MAV + MA": "15.76, 71.64, 73.15",
    "IG": "15.67, 14.32, 13.40",
    "IG + MA": "18.22, 17.25, 16.92",
    "IC": "2.07, 6.14, 6.33",
    "IC + MA": "3.89, 11.76, 12.66",
}
GEM3D_2 = {
    "Pix2Pix 3D": ("0.776", "0.277"),
    "3D LDM": ("0.803", "0.259"),
    "Make-A-Volume": ("0.817", "0.234"),
    "GEM-3D": ("0.887", "0.134"),
}
GEM3D_4 = {
    "E2-1": "72.90",
    "resampled-1x": "68.53",
    "resampled-2x": "71.13",
    "resampled-3x": "71.57",
}


def number(value: object) -> str:
    """Return a number with three digits after the point; text as it is, without its preamble."""
    return f"{value:.3f}" if isinstance(value, float) else str(value).removeprefix("not computed: ")


def rows(
    head: Sequence[str],
    lines: Sequence[tuple[Sequence[str], Cell]],
    reports: Mapping[str, Report],
    elsewhere: str | None = None,
) -> Iterator[str]:
    """Yield a table: columns of the paper, then one per preset.

    Args:
        head: columns before those of the presets.
        lines: cells before them, and what a preset's cell says.
        reports: by preset.
        elsewhere: what the cells of tiny say where its file has nothing.
    """
    columns = [*head, *PRESETS.values()]
    yield "\n" + "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for first, cell in lines:
        found = [said(cell, reports.get(name), name == "tiny" and elsewhere) for name in PRESETS]
        yield "| " + " | ".join([*first, *found]) + " |"
    yield ""


def said(cell: Cell, report: Report | None, otherwise: object) -> str:
    """Return what a cell says of a report, or that nothing was measured."""
    try:
        return cell(report or {})
    except (KeyError, TypeError, StopIteration):
        return str(otherwise or MISSING)


def one(found: Sequence[Report], **wanted: object) -> Report:
    """Return the first entry with the given values.

    Raises:
        StopIteration: if there is none.
    """
    return next(e for e in found if wanted.items() <= e.items())


def asked(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield what is asked of generated pairs."""

    def quality(key: str) -> Cell:
        return lambda r: number(r["quality"][key])

    def share(key: str) -> Cell:
        return lambda r: f"{100 * r['quality'][key]:.0f} %"

    def views(r: Report) -> str:
        return ", ".join(number(r["quality"]["distance_ratio"][v]) for v in "ACS")

    def copies(r: Report) -> str:
        return f"{r['quality']['copies']} of {r['quality']['pairs']}"

    def gain(r: Report) -> str:
        found = one(r["strategies"]["differences"], strategy="low-10-tuned", synthetic="medgen3d",
                    against="low-10-equal")  # fmt: skip
        dice = found["dice"]
        return f"{dice['mean']:+.3f} [{dice['low']:+.3f}, {dice['high']:+.3f}]"

    yield from rows(
        ["of 20 generated pairs", "wanted"],
        [
            (
                ["agreement with their masks / that of kept-back scans", ">= 0.95"],
                quality("alignment"),
            ),
            (
                ["all labels' volumes in the range of real scans", ">= 95 %"],
                share("volumes_in_range"),
            ),
            (["feature distance / floor: axial, coronal, sagittal", "<= 2 each"], views),
            (["seam index", "<= 1.05"], quality("seam_index")),
            (["detail, 1 in real scans", ""], quality("detail_ratio")),
            (["called copies by the audit", "none beyond chance"], copies),
            (["Dice, 10 persons: pairs, then scans, minus scans as long", "above 0"], gain),
        ],
        reports,
    )


def medgen3d_1(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield Table 1 of MedGen3D."""

    def cell(name: str) -> Cell:
        def found(r: Report) -> str:
            row = one(r["medgen3d-1"], generator=name, features="slice network")
            by_view = ", ".join(number(row[f"FID/floor {v}"]) for v in "ACS")
            diverse = row["LPIPS-type"]
            diverse = number(diverse) if isinstance(diverse, float) else "slices"
            return f"{number(row['ratio'])} ({by_view}); {diverse}"

        return found

    lines = [([name, *paper], cell(name)) for name, paper in MEDGEN3D_1.items()]
    yield from rows(["", "paper: FID", "paper: LPIPS"], lines, reports)


def strategies(reports: Mapping[str, Report], paper: Mapping[str, str], key: str) -> Iterator[str]:
    """Yield Dice by strategy: MedGen3D's Table 3, GEM-3D's Table 4."""

    def cell(name: str) -> Cell:
        def found(r: Report) -> str:
            arms = [a for a in r[key]["arms"] if a["strategy"] == name]
            if not arms:
                raise KeyError(name)
            return "; ".join(
                " ".join(filter(None, [a["synthetic"], number(a["dice"])])) for a in arms
            )

        return found

    lines = [([name, value], cell(name)) for name, value in paper.items()]
    yield from rows(["strategy", "paper"], lines, reports, SEGMENTATION)


def transfer(_reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield Table 4 of MedGen3D, for which there is no second set of scans."""
    yield from ("| strategy | paper | ours |", "|---|---|---|")
    yield from (f"| {name} | {value} | {PHANTOMS} |" for name, value in MEDGEN3D_4.items())


def gem3d_1(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield Table 1 of GEM-3D."""

    def cell(name: str) -> Cell:
        def found(r: Report) -> str:
            row = one(r["gem3d-1"], setting=name)
            return ", ".join(number(row[f"FID/floor {v}"]) for v in "ACS")

        return found

    lines = [([name, value], cell(name)) for name, value in GEM3D_1.items()]
    yield from rows(["", "paper (BraTS): FID A, C, S"], lines, reports, VOLUMES)


def gem3d_2(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield Table 2 of GEM-3D."""

    def cell(name: str) -> Cell:
        def found(r: Report) -> str:
            row = one(r["gem3d-2"], contestant=name)
            return f"{number(row['MS-SSIM A'])}, {number(row['LPIPS-type'])}"

        return found

    lines = [([name, *paper], cell(name)) for name, paper in GEM3D_2.items()]
    yield from rows(["", "paper (BraTS): MS-SSIM", "LPIPS"], lines, reports, VOLUMES)


def states(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield the audit of both states of the weights."""

    def cell(state: str) -> Cell:
        def found(r: Report) -> str:
            entry, chosen = r["states"]["states"][state], r["states"]["state"] == state
            mark = ", chosen" if chosen and len(r["states"]["states"]) > 1 else ""
            return f"{entry['copies']} of {entry['pairs']}; {entry['distance']:.3f}{mark}"

        return found

    lines = [(["half of the budget"], cell("half")), (["its end"], cell("end"))]
    yield from rows(["state of the weights"], lines, reports, "the shipped weights are one state")


def made_by(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield what each preset's figures were made with."""
    for name, label in PRESETS.items():
        if name not in reports:
            yield f"* {label}: {MISSING}."
            continue
        report = reports[name]
        options = report["options"]
        how = "weights that ship, baselines" if options["shipped"] else "every stage"
        note = f" {report['note']}" if "note" in report else ""
        yield (
            f"* {label}: {how} trained {options['minutes']:g} minutes each; {options['pairs']} "
            f"pairs; {report['device']}, {report['threads']} threads, commit {report['commit']}."
            f"{note}"
        )
    yield ""


PARTS: Mapping[str, Callable[[Mapping[str, Report]], Iterator[str]]] = {
    "made by": made_by,
    "asked": asked,
    "medgen3d-1": medgen3d_1,
    "medgen3d-3": lambda r: strategies(r, MEDGEN3D_3, "strategies"),
    "medgen3d-4": transfer,
    "gem3d-1": gem3d_1,
    "gem3d-2": gem3d_2,
    "gem3d-4": lambda r: strategies(r, GEM3D_4, "resampled"),
    "states": states,
}


def main() -> None:
    """Fill the tables into the text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    reports = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(words.folder.glob("*.json"))
    }
    text = INTRO.read_text(encoding="utf-8")
    for name, part in PARTS.items():
        mark = f"<!-- {name} -->"
        if mark not in text:
            raise SystemExit(f"error: {INTRO.name}: no {mark}, wanted one; put it back")
        text = text.replace(mark, "\n".join(part(reports)).strip("\n"))
    write_text(words.out, text)


if __name__ == "__main__":
    main()
