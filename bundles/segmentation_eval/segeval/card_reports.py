"""What a card is made from: reports of the judge, the audit and the comparison, of the same sets.

A pair set is known by the hash of its manifest, phantoms in memory by their name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.data.audits import FORMAT as AUDIT_FORMAT
from common.data.datasets import PairSet
from common.errors import MedpairError
from common.io.manifest import sha256
from common.metrics.values import not_computed

FORMATS = {
    "judge": "medpair-judge-1",
    "audit": AUDIT_FORMAT,
    "compare": "medpair-compare-1",
}
Names = frozenset[str]


@dataclass(frozen=True)
class Report:
    """A report and the pair sets that it is of.

    Attributes:
        kind: "judge", "audit" or "compare".
        path: its file.
        sha256: of the file.
        content: what it holds.
        real: identities of its sets of real scans.
        synthetic: identities of its generated sets; of an audit that took pairs out, the set
            before and after.
    """

    kind: str
    path: Path
    sha256: str
    content: Mapping[str, Any]
    real: Names
    synthetic: Names


@dataclass(frozen=True)
class Reports:
    """Reports that fit together.

    Attributes:
        found: by kind.
        left_out: by kind, why a report is not there.
        real: identities that a set of real scans may have.
        synthetic: identities that the generated set may have.
    """

    found: Mapping[str, Report] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    real: Names = frozenset()
    synthetic: Names = frozenset()

    def content(self, kind: str) -> Mapping[str, Any] | str:
        """Return a report, or why there is none."""
        return self.found[kind].content if kind in self.found else self.left_out[kind]


def read_reports(
    folder: str | Path | None,
    files: Mapping[str, str | Path | None],
    anchor: str | None = None,
) -> Reports:
    """Read the reports of a folder, or those of given files.

    Args:
        folder: where ``judge.json``, ``audit.json`` and ``compare.json`` may lie, or None.
        files: by kind a file instead.
        anchor: kind of the report that was just written; others that are damaged or of other pair
            sets are left out with the reason. None refuses them.

    Raises:
        MedpairError: for a missing or damaged file, another format, other pair sets than those of
            the other reports, or no report at all.
    """
    paths = {kind: _path(kind, folder, files.get(kind)) for kind in FORMATS}
    reports = Reports()
    for kind in sorted(FORMATS, key=lambda kind: (kind != anchor, list(FORMATS).index(kind))):
        path = paths[kind]
        if path is None:
            reason = not_computed(f"no {kind}.json; run medpair {kind}")
            reports = replace(reports, left_out={**reports.left_out, kind: reason})
            continue
        try:
            reports = _joined(reports, read_report(kind, path))
        except MedpairError as error:
            if anchor in (None, kind):
                raise
            reason = not_computed(" ".join(str(error).split()))
            reports = replace(reports, left_out={**reports.left_out, kind: reason})
    if not reports.found:
        raise MedpairError(
            f"{folder or 'reports'}: no judge.json, audit.json or compare.json, wanted at least "
            "one; run medpair judge, audit or compare, or give --judge, --audit or --compare"
        )
    return reports


def _path(kind: str, folder: str | Path | None, file: str | Path | None) -> Path | None:
    if file is not None:
        return Path(file)
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise MedpairError(f"{folder}: no such folder, wanted one with reports; correct it")
    path = Path(folder) / f"{kind}.json"
    return path if path.is_file() else None


def read_report(kind: str, path: Path) -> Report:
    """Read a report and what it says of its pair sets.

    Args:
        kind: "judge", "audit" or "compare".
        path: the file.

    Raises:
        MedpairError: for a missing or damaged file, or another format.
    """
    again = f"run medpair {kind} again"
    try:
        data = path.read_bytes()
        content = json.loads(data, parse_constant=_refused, parse_float=_finite)
    except OSError as error:
        raise MedpairError(
            f"--{kind}: {path}: {error.strerror}, wanted a {kind}.json; {again}"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise MedpairError(f"--{kind}: {path}: damaged, no JSON ({reason}); {again}") from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != FORMATS[kind]:
        raise MedpairError(
            f"--{kind}: {path}: format {str(found)[:60]}, wanted {FORMATS[kind]}; {again}"
        )
    try:
        real, synthetic = _SETS[kind](content)
    except (KeyError, TypeError, AttributeError) as error:
        raise MedpairError(
            f"--{kind}: {path}: its settings do not say of which pair sets it is; {again}"
        ) from error
    return Report(kind, path, sha256(path), content, real, synthetic)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large")
    return value


def identity(said: Mapping[str, Any]) -> str:
    """Return what tells a pair set from others, from what a report says of it."""
    return str(said.get("manifest_sha256") or said["folder"])


def _of_judge(content: Mapping[str, Any]) -> tuple[Names, Names]:
    sets = content["settings"]["sets"]
    return frozenset({identity(sets["real"])}), frozenset({identity(sets["synthetic"])})


def _of_audit(content: Mapping[str, Any]) -> tuple[Names, Names]:
    sets = content["settings"]["sets"]
    real = [identity(sets[name]) for name in ("training", "held_out")]
    now = content.get("manifest_sha256")  # after copies were taken out
    return frozenset(real), frozenset({identity(sets["synthetic"]), *([str(now)] if now else [])})


def _of_compare(content: Mapping[str, Any]) -> tuple[Names, Names]:
    settings = content["settings"]
    real = [settings["real"], settings.get("target"), settings.get("test")]
    made = [identity(said) for said in settings["synthetic"]]
    return frozenset(identity(said) for said in real if said), frozenset(made)


_SETS = {"judge": _of_judge, "audit": _of_audit, "compare": _of_compare}


def _joined(reports: Reports, report: Report) -> Reports:
    """Add a report of the same pair sets.

    Raises:
        MedpairError: if it is of others.
    """
    found = {**reports.found, report.kind: report}
    if not reports.found:
        return replace(reports, found=found, real=report.real, synthetic=report.synthetic)
    for key in ("real", "synthetic"):
        ours, theirs = getattr(reports, key), getattr(report, key)
        # a comparison without synthetic pairs fits any generated set
        if not ours & theirs and ours and theirs:
            others = " and ".join(f"{kind}.json" for kind in reports.found)
            raise MedpairError(
                f"--{report.kind}: {report.path}: of the {key} pair set {_short(theirs)}, wanted "
                f"{_short(ours)} as {others} (sha256 of manifests); run medpair {report.kind} "
                "again on the same sets"
            )
    synthetic = _same_set([*reports.found.values(), report])
    return replace(reports, found=found, real=reports.real & report.real, synthetic=synthetic)


def _same_set(reports: Sequence[Report]) -> Names:
    """Return the identities of the generated set: one set, before and after an audit."""
    alone = [r.synthetic for r in reports if r.kind != "compare"]
    if alone:
        return frozenset().union(*alone)
    return frozenset().union(*(r.synthetic for r in reports))


def _short(names: Names) -> str:
    return " or ".join(sorted(name[:12] for name in names))


def open_fitting(key: str, folder: str | Path | None, allowed: Names) -> PairSet | None:
    """Open a pair set that reports are of.

    Args:
        key: "real" or "synthetic", for the message.
        folder: its folder; None gives None.
        allowed: its possible identities; empty for any.

    Raises:
        MedpairError: where there is no pair set, or another one.
    """
    if folder is None:
        return None
    pairs = PairSet.open(folder)
    path = pairs.manifest.path
    found = sha256(path) if path.is_file() else "no manifest"
    if allowed and found not in allowed:
        raise MedpairError(
            f"--{key}: {folder}: manifest {found[:12]}, wanted {_short(allowed)} as the reports; "
            "give that pair set, or make the reports again"
        )
    return pairs
