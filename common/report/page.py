"""The report of a pair set: one HTML page to look at its pairs, and what is known of each."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.data.datasets import PairSet
from common.errors import MedpairError
from common.io.atomic import write_text
from common.io.lock import brief
from common.io.manifest import versions
from common.progress import Progress, silent
from common.report.facts import BINS, Facts, facts_of, histograms, voxel_ml
from common.report.header import rows
from common.report.origin import REAL, REAL_MASK
from common.report.previews import previews
from common.report.ranges import Ranges, ranges_of
from common.report.seconds import read_log
from common.report.vendored import RELEASE, SCRIPT, put_viewer, script_sha256

REPORT = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
MOST_PREVIEWS = 25_000_000
"""Characters of all previews together; later pairs have none."""


@dataclass
class Content:
    """What the page shows.

    Attributes:
        pairs: facts by pair, in the order of ids.
        shown: previews of image and mask, in the order of ``pairs``; None for pairs without.
        problems: a line for each pair that cannot be read.
    """

    pairs: list[Facts] = field(default_factory=list)
    shown: list[dict[str, str] | None] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def write_report(
    pairset_dir: str | Path, out: str | Path | None = None, progress: Progress | None = None
) -> Path:
    """Write ``report.html`` of a pair set, and the script of its viewer beside it.

    Args:
        pairset_dir: the pair set.
        out: folder for the report; None takes the pair set's.
        progress: called with ("report", done, total).

    Returns:
        The page.

    Raises:
        MedpairError: where there is no pair set, or none of its pairs.
    """
    pairs = PairSet.open(pairset_dir)
    if not pairs.ids():
        raise MedpairError(f"{pairs.dir}: no pair is finished, wanted at least 1; generate some")
    folder = pairs.dir if out is None else Path(out)
    content = collect(pairs, folder, progress or silent)
    put_viewer(folder)
    write_text(folder / REPORT, render(pairs, content, _link(folder / "card.html", folder)))
    return folder / REPORT


def update_report(pairset_dir: Path, least: int = 1) -> bool:
    """Write the report of a pair set that has none, or whose manifest is newer.

    Args:
        pairset_dir: the pair set; parts of a run may write in it meanwhile.
        least: pairs that it must hold, else nothing is written.

    Returns:
        Whether it was written.
    """
    pairs, report = PairSet.open(pairset_dir), pairset_dir / REPORT
    if len(pairs.ids()) < max(least, 1):
        return False
    with brief(pairset_dir / "images"):
        made = report.stat().st_mtime_ns if report.is_file() else 0
        if made > pairs.manifest.path.stat().st_mtime_ns:
            return False
        write_report(pairset_dir)
    return True


def collect(pairs: PairSet, folder: Path, progress: Progress = silent) -> Content:
    """Return facts and previews of all pairs.

    Args:
        pairs: the pair set.
        folder: where the page will lie, for links to the files.
        progress: called with ("report", done, total).
    """
    content, log, room = Content(), read_log(pairs.dir / "run.jsonl"), MOST_PREVIEWS
    ids = pairs.ids()
    for done, identity in enumerate(ids):
        progress("report", done, len(ids))
        record = pairs.record(identity)
        preview = None
        try:
            facts = facts_of(pairs, record, log, voxel_ml(pairs, identity))
            if room > 0:
                preview = _preview(pairs, identity, facts)
        except MedpairError as error:
            content.problems.append(" ".join(str(error).split()))
            facts = facts_of(pairs, record, log, None)
        image, label = (_link(path, folder) for path in pairs.paths(identity))
        room -= sum(map(len, preview.values())) if preview else 0
        content.pairs.append({"histograms": {}, **facts, "image": image, "label": label})
        content.shown.append(preview)
    progress("report", len(ids), len(ids))
    return content


def _preview(pairs: PairSet, identity: str, facts: Facts) -> dict[str, str]:
    """Return the previews of a pair; its facts get histograms and how coarse the previews are."""
    pair = pairs.read(identity)
    image, label, factor = previews(pair, pairs.schema.slice_axis)
    facts |= {"histograms": histograms(pair, pairs.schema), "factor": factor}
    return {"image": image, "label": label}


def render(pairs: PairSet, content: Content, card: str | None = None) -> str:
    """Return the HTML text of a report.

    Args:
        pairs: the pair set.
        content: from `collect`.
        card: link to the evaluation card, where there is one.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    code = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    ranges = ranges_of(pairs, [facts["shares"] for facts in content.pairs])
    kinds = _counts(content.pairs)
    html: str = environment.get_template("report.html.j2").render(
        name=pairs.dir.absolute().name,
        card=card,
        real=REAL in kinds,
        real_masks=any(kind.startswith(REAL_MASK) for kind in kinds),
        kinds=kinds,
        labels=_labels(pairs, ranges),
        data=_data(pairs, content, ranges),
        content=content,
        header=pairs.header,
        ranges=ranges,
        provenance=rows(pairs),
        script=SCRIPT,
        release=RELEASE,
        script_sha256=script_sha256(),
        versions=versions("medpair", "jinja2"),
        code=code,
        code_hash=_hash(f"\n{code}"),
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
    )
    return html.strip() + "\n"


def _labels(pairs: PairSet, ranges: Ranges) -> list[dict[str, Any]]:
    return [
        {
            "id": label.id,
            "name": label.name,
            "colour": list(label.colour),
            "range": ranges.share.get(label.name),
        }
        for label in pairs.schema.labels
    ]


def _data(pairs: PairSet, content: Content, ranges: Ranges) -> dict[str, Any]:
    """Return what the script of the page reads."""
    return {
        "labels": _labels(pairs, ranges),
        "total_ml": ranges.total_ml,
        "bins": BINS,
        "script": SCRIPT,
        "pairs": content.pairs,
    }


def _counts(pairs: list[Facts]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for facts in pairs:
        found[facts["kind"]] = found.get(facts["kind"], 0) + 1
    return found


def _link(path: Path, folder: Path) -> str | None:
    """Return a file's address as seen from a folder; None where it does not exist."""
    if not path.is_file():
        return None
    try:
        return quote(Path(os.path.relpath(path, folder)).as_posix())
    except ValueError:  # on another drive
        return path.absolute().as_uri()


def _hash(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")
