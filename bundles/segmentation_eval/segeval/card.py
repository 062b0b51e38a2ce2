"""The evaluation card: what judge, audit and comparison found, on one page, with a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.data.datasets import PairSet
from common.errors import MedpairError
from common.io.atomic import to_json, write_text
from common.io.manifest import sha256, versions
from common.progress import Progress, silent
from segeval.card_drawing import Plot
from segeval.card_page import page
from segeval.card_pictures import Sets, gallery, nearest
from segeval.card_plots import plots
from segeval.card_ranges import ranges
from segeval.card_reports import Reports, identity, open_fitting, read_reports
from segeval.card_summary import summaries
from segeval.card_values import dig, parts_at
from segeval.card_verdicts import answer, read_targets, verdicts

FORMAT = "medpair-card-1"
HEADLINE = "E2-4"
PAIRS = 4
CARDS = ("all", "generated", "none")
"""What a command writes beside its report: a card, one without real slices, or none."""
MOST_BYTES = 3_000_000


@dataclass(frozen=True)
class Card:
    """Make the card of a generated pair set.

    Args:
        output_dir: gets ``card.json`` and ``card.html``.
        reports: folder that may hold ``judge.json``, ``audit.json`` and ``compare.json``.
        judge: the judge's report, where it lies elsewhere.
        audit: the audit's report.
        compare: the comparison's report.
        real: pair set of real scans, for ranges and pictures.
        synthetic: generated pair set, likewise.
        real_pictures: whether slices of real scans may be shown.
        headline: strategy whose gain the first sentence is of.
        targets: see `segeval.card_verdicts.Targets`; those that are not named keep their default.
        pairs: generated pairs that are shown.
    """

    output_dir: str
    reports: str | None = None
    judge: str | None = None
    audit: str | None = None
    compare: str | None = None
    real: str | None = None
    synthetic: str | None = None
    real_pictures: bool = True
    headline: str = HEADLINE
    targets: Mapping[str, float] = field(default_factory=dict)
    pairs: int = PAIRS

    def __call__(self, progress: Progress | None = None) -> dict[str, Any]:
        """Read the reports and write the card.

        Args:
            progress: called with ("card", done, total).

        Returns:
            The content of ``card.json``; its ``problems`` name pairs that cannot be read.

        Raises:
            MedpairError: for reports or pair sets that are missing, damaged or do not fit
                together, or values outside their range.
        """
        if self.pairs < 1:
            raise MedpairError(f"pairs: {self.pairs}, wanted at least 1 to show")
        read_targets(self.targets)
        files = {"judge": self.judge, "audit": self.audit, "compare": self.compare}
        reports = read_reports(self.reports, files)
        sets = Sets(
            open_fitting("real", self.real, reports.real),
            open_fitting("synthetic", self.synthetic, reports.synthetic),
        )
        return self.write(reports, sets, progress)

    def write(
        self, reports: Reports, sets: Sets, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Write the card of reports and pair sets that fit together.

        Args:
            reports: from `read_reports`.
            sets: pair sets that the reports are of.
            progress: called with ("card", done, total).

        Returns:
            The content of ``card.json``.

        Raises:
            MedpairError: for reports whose parts are not what they should be.
        """
        told = progress or silent
        told("card", 0, 3)
        problems: list[str] = []
        with _one_line(reports):
            content = self._content(reports, sets, problems)
            told("card", 1, 3)
            drawn = plots(content, read_targets(self.targets).fid_ratio)
            told("card", 2, 3)
            content, html = self._page(content, drawn, sets, problems)
            data = to_json(content, indent=1) + "\n"
        out = Path(self.output_dir)
        write_text(out / "card.html", html)
        write_text(out / "card.json", data)
        told("card", 3, 3)
        return content

    def _page(
        self,
        content: Mapping[str, Any],
        drawn: Mapping[str, Plot | str],
        sets: Sets,
        problems: Sequence[str],
    ) -> tuple[dict[str, Any], str]:
        """Return content and page; large pictures are fewer, so that the page stays small."""
        count = self.pairs
        while True:
            shown = gallery(sets, content["nearest"], count, self.real_pictures)
            said = {"pairs": count, "real_scans": shown.shows_real_scans}
            named = list(dict.fromkeys([*problems, *shown.problems]))
            whole = {**content, "pictures": said, "problems": named}
            html = page(whole, drawn, shown)
            if len(html) <= MOST_BYTES or count == 1:
                return whole, html
            count //= 2

    def _content(self, reports: Reports, sets: Sets, problems: list[str]) -> dict[str, Any]:
        targets = read_targets(self.targets)
        listed = _listed(reports, sets)
        names = _compared_names(reports)
        settings = {
            "targets": asdict(targets),
            "headline": self.headline,
            "real_pictures": self.real_pictures,
            "pairs": self.pairs,
            "versions": versions("medpair", "matplotlib", "jinja2", "pillow"),
        }
        content = {
            "format": FORMAT,
            "title": _title(listed),
            "settings": settings,
            "sets": listed,
            "reports": {kind: _said(reports, kind) for kind in ("judge", "audit", "compare")},
            **summaries(reports),
            "ranges": ranges(sets, problems),
        }
        near = nearest(reports.content("audit"), reports.content("judge"), sets, self.pairs)
        rows = verdicts(content, targets, self.headline, names)
        content |= {"nearest": near, "verdicts": rows, "compared": _compared(content)}
        return content | {"answer": answer(content, self.headline, names, targets.gain)}


@contextmanager
def _one_line(reports: Reports) -> Iterator[None]:
    """Refuse reports of the right format whose parts are not what they should be."""
    try:
        yield
    except MedpairError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        paths = ", ".join(str(report.path) for report in reports.found.values())
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise MedpairError(
            f"{paths}: damaged, a part is not what it should be ({reason}); make the reports again"
        ) from error


def check_card(card: str) -> None:
    """Refuse an unknown word for the card that a command writes beside its report.

    Args:
        card: of `CARDS`.

    Raises:
        MedpairError: for another.
    """
    if card not in CARDS:
        raise MedpairError(f"card: {card!r}, wanted {', '.join(CARDS)}")


def update_card(
    kind: str, output_dir: str, real: str | None, synthetic: Sequence[str], card: str = CARDS[0]
) -> None:
    """Write the card of a folder whose report of that kind is new.

    Other reports of the folder that are damaged, or of other pair sets, are left out of the card,
    which says so.

    Args:
        kind: "judge", "audit" or "compare".
        output_dir: the folder.
        real: pair set of real scans.
        synthetic: generated pair sets, of which the first that the reports are of is shown.
        card: of `CARDS`.
    """
    if card == "none":
        return
    reports = read_reports(output_dir, {}, anchor=kind)
    made = (_opened("synthetic", folder, reports.synthetic) for folder in synthetic)
    sets = Sets(
        _opened("real", real, reports.real),
        next((pairs for pairs in made if pairs is not None), None),
    )
    Card(output_dir, real_pictures=card == "all").write(reports, sets)


def _opened(key: str, folder: str | None, allowed: frozenset[str]) -> PairSet | None:
    """Return a pair set that the reports are of; None for others, and for phantoms in memory."""
    if folder is None or folder.startswith("phantom:"):
        return None
    try:
        return open_fitting(key, folder, allowed)
    except MedpairError:
        return None


def _listed(reports: Reports, sets: Sets) -> list[dict[str, Any]]:
    """Return every pair set once, with the parts that it has in the reports."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for kind, report in reports.found.items():
        settings = report.content["settings"]
        if kind == "compare":
            parts = [(key, settings.get(key)) for key in ("real", "target", "test")]
            parts += [("synthetic", said) for said in settings["synthetic"]]
        else:
            parts = list(settings["sets"].items())
        found += [(f"{role} of {kind}", said) for role, said in parts if said]
    for role, pairs in (("real", sets.real), ("synthetic", sets.synthetic)):
        if pairs is not None:
            found.append((f"{role}, shown here", _described(pairs)))
    roles: dict[str, list[str]] = {}
    for role, said in found:
        roles.setdefault(identity(said), []).append(role)
    first = {identity(said): said for _, said in reversed(found)}
    return [
        {
            "role": "; ".join(dict.fromkeys(names)),
            "folder": str(first[name].get("folder", "")),
            "pairs": first[name].get("pairs"),
            "manifest_sha256": first[name].get("manifest_sha256"),
        }
        for name, names in roles.items()
    ]


def _described(pairs: PairSet) -> dict[str, Any]:
    path = pairs.manifest.path
    digest = sha256(path) if path.is_file() else None
    folder = pairs.dir.absolute().name
    return {"folder": folder, "manifest_sha256": digest, "pairs": len(pairs.ids())}


def _title(sets: Sequence[Mapping[str, Any]]) -> str:
    folders = [said["folder"] for said in sets if "synthetic" in said["role"]]
    return "Evaluation of " + (", ".join(dict.fromkeys(folders)) or "trainings on real scans")


def _said(reports: Reports, kind: str) -> dict[str, Any] | str:
    report = reports.found.get(kind)
    if report is None:
        return reports.left_out[kind]
    released = {k: str(v) for k, v in parts_at(report.content, "settings", "versions").items()}
    return {"sha256": report.sha256, "format": report.content["format"], "versions": released}


def _compared_names(reports: Reports) -> list[str] | None:
    """Return the names of the card's generated set in the comparison; None for any."""
    if set(reports.found) <= {"compare"}:
        return None
    if "compare" not in reports.found:
        return None
    listed = reports.found["compare"].content["settings"]["synthetic"]
    return [str(said["name"]) for said in listed if identity(said) in reports.synthetic]


def _compared(content: Mapping[str, Any]) -> list[str]:
    """Return what was compared, and how many of each."""
    lines = []
    n = parts_at(content["judge"], "n")
    if n:
        keys = ("synthetic", "training", "training_persons", "kept_back", "kept_back_persons")
        made, seen, persons, kept, others = (n.get(key, 0) for key in keys)
        lines.append(
            f"Judged: {made} generated pairs beside {seen} training scans of {persons} persons and "
            f"{kept} kept-back scans of {others} persons."
        )
    arms = dig(content["compare"], "arms")
    tested = [a for a in arms if "n_cases" in a] if isinstance(arms, list) else []
    if tested:
        first = tested[0]
        networks = ", ".join(dict.fromkeys(arm["network"] for arm in tested))
        strategies = len({arm["strategy"] for arm in tested})
        lines.append(
            f"Compared: {networks} trained by {strategies} strategies, {_seeds(content)}, tested "
            f"on {first['n_cases']} real scans of {first['n_persons']} persons."
        )
    counts = [dig(content["audit"], key) for key in ("n", "n_training", "n_held_out")]
    if all(isinstance(count, int) for count in counts):
        lines.append(
            f"Audited: {counts[0]} generated pairs beside {counts[1]} training and {counts[2]} "
            "kept-back scans."
        )
    return lines


def _seeds(content: Mapping[str, Any]) -> str:
    compare = content["compare"]
    folds = f", {compare['folds']}-fold cross-validation" if compare["folds"] else ""
    return f"{len(compare['seeds'])} seeds{folds}"
