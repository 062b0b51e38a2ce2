"""The evaluation card of a generated pair set. Opens the card of the bundle that judges pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.progress import Progress

# torch and monai take seconds to import: functions import what they need when they run.

StrPath = str | Path
BUNDLE = "segmentation_eval"
NO_OVERLAY = ""
WITHOUT_REAL = "generated"
"""The card that judge, audit and compare write where it must show no slice of a real scan."""


def card(
    reports: StrPath | None = None,
    *,
    out: StrPath,
    judge: StrPath | None = None,
    audit: StrPath | None = None,
    compare: StrPath | None = None,
    real: StrPath | None = None,
    synthetic: StrPath | None = None,
    real_pictures: bool = True,
    headline: str | None = None,
    targets: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Put reports of a generated pair set on one page, with plots, pictures and a verdict.

    Args:
        reports: folder that holds ``judge.json``, ``audit.json``, ``compare.json`` or some of them.
        out: gets ``card.json`` and ``card.html``.
        judge: the judge's report, where it lies elsewhere.
        audit: the audit's report, likewise.
        compare: the comparison's report, likewise.
        real: pair set of real scans that the reports are of, for ranges and pictures.
        synthetic: generated pair set, likewise.
        real_pictures: whether the card shows slices of real scans.
        headline: strategy whose gain the first sentence is of; None takes E2-4.
        targets: what numbers should reach, by name: alignment_ratio, seam_index, fid_ratio,
            copies, gain; others keep their default.
        progress: called with ("card", done, total).

    Returns:
        The folder; ``problems`` in its ``card.json`` names damaged pairs that were left out.

    Raises:
        MedpairError: for reports that are missing, damaged or of different pair sets.
    """
    from common.stages import run_use

    files = {
        "reports": reports,
        "judge": judge,
        "audit": audit,
        "compare": compare,
        "real": real,
        "synthetic": synthetic,
    }
    given: dict[str, Any] = {"output_dir": str(Path(out).absolute())}
    given |= {key: str(path) for key, path in files.items() if path is not None}
    given |= {} if real_pictures else {"real_pictures": False}
    given |= {"headline": headline} if headline is not None else {}
    given |= {"targets": dict(targets)} if targets is not None else {}
    run_use(BUNDLE, "card", NO_OVERLAY, given, progress)
    return Path(out)
