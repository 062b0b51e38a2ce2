"""The page of a card: one HTML file that needs no other file and no network."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from segeval import card_tables as tables
from segeval.card_drawing import Plot
from segeval.card_pictures import Gallery
from segeval.card_tables import Table
from segeval.card_values import dig, is_reason, reason_at

TEMPLATES = Path(__file__).parent / "templates"
PLOTS = {
    "gain": "Gain over real scans alone",
    "dice": "Dice by strategy",
    "low_data": "Few real scans",
    "fidelity": "Fréchet distances",
    "intensity": "Intensity per label",
    "volume": "Volume per label",
    "steps": "Steps from slice to slice",
}


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: anchor.
        title: heading.
        lines: paragraphs; reasons stand out.
        plots: plots.
        tables: tables, those without rows left out.
    """

    id: str
    title: str
    lines: Sequence[str]
    plots: Sequence[Plot]
    tables: Sequence[Table]


def page(content: Mapping[str, Any], drawn: Mapping[str, Plot | str], gallery: Gallery) -> str:
    """Return the HTML text of a card.

    Args:
        content: of ``card.json``.
        drawn: plots by name, see `segeval.card_plots.plots`.
        gallery: pictures.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    environment.tests["reason"] = is_reason
    html: str = environment.get_template("card.html.j2").render(
        content=content,
        verdicts=tables.verdict_table(content["verdicts"]),
        sections=sections(content, drawn),
        gallery=gallery,
        nearest=content["nearest"],
        brief=tables.number,
        provenance=tables.provenance_tables(content),
    )
    return html.strip() + "\n"


def sections(content: Mapping[str, Any], drawn: Mapping[str, Plot | str]) -> list[Section]:
    """Return the parts of the page between the verdicts and the pictures.

    Args:
        content: of ``card.json``.
        drawn: plots by name.
    """
    compare, judge, audit = (content[key] for key in ("compare", "judge", "audit"))

    def part(
        place: str,
        title: str,
        reason: str | None,
        made: Callable[[], Sequence[Table]],
        *names: str,
        notes: Sequence[str] = (),
    ) -> Section:
        lines = [*([reason] if reason else []), *notes]
        plots, lacking = _drawn(drawn, names)
        lines += [line for line in lacking if not reason or reason not in line]
        shown = () if reason else [table for table in made() if table.rows]
        return Section(place, title, lines, plots, shown)

    def judged(*keys: str) -> str | None:
        return reason_at(judge, *keys)

    lost = compare if isinstance(compare, str) else None
    notes = [] if lost else compare["notes"]
    return [
        part(
            "help",
            "Do synthetic pairs help a segmentation?",
            lost,
            lambda: tables.compare_tables(compare),
            *("gain", "dice", "low_data"),
            notes=notes,
        ),
        part(
            "fidelity",
            "Likeness to real scans",
            judged("fidelity"),
            lambda: [tables.fidelity_table(judge)],
            "fidelity",
        ),
        part(
            "alignment",
            "Does the image show its mask?",
            judged("alignment"),
            lambda: [tables.alignment_table(judge)],
        ),
        part(
            "intensity",
            "Intensity and volume per label",
            None,
            lambda: [tables.range_table(content["ranges"]), *_intensity(judge)],
            *("intensity", "volume"),
            notes=[why for why in [judged("intensity")] if why],
        ),
        part(
            "consistency",
            "From slice to slice",
            judged("consistency"),
            lambda: [tables.consistency_table(judge)],
            "steps",
        ),
        part(
            "masks",
            "Masks, diversity and detail",
            judged("masks"),
            lambda: tables.mask_tables(judge),
        ),
        part(
            "copies",
            "Copies of training scans",
            audit if isinstance(audit, str) else None,
            lambda: tables.audit_tables(audit),
            notes=_audit_notes(audit),
        ),
    ]


def _intensity(judge: Any) -> list[Table]:
    return [] if reason_at(judge, "intensity") else [tables.intensity_table(judge)]


def _audit_notes(audit: Any) -> list[str]:
    counts = {key: dig(audit, key) for key in ("n", "n_training", "n_held_out", "taken_out")}
    if not all(isinstance(value, int) for value in counts.values()):
        return []
    return [
        f"{counts['n']} pairs beside {counts['n_training']} training and {counts['n_held_out']} "
        f"kept-back scans; {counts['taken_out']} pairs taken out of the set as copies."
    ]


def _drawn(drawn: Mapping[str, Plot | str], names: Sequence[str]) -> tuple[list[Plot], list[str]]:
    """Return the plots that there are, and a line for each that is lacking."""
    found = [(name, drawn[name]) for name in names]
    plots = [plot for _, plot in found if isinstance(plot, Plot)]
    lines = [f"{PLOTS[name]}: {plot}" for name, plot in found if isinstance(plot, str)]
    return plots, lines
