"""The audit: which generated pairs copy a scan of the training, and who was in it?

Two measures decide: the correlation of what remains without the smooth part after rigid alignment
("detail"), which tells an exact or moved copy from another person, and a contrastive embedding,
which sees through noise and other changes. The rest is reported beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.data.audits import FORMAT, mark_audited
from common.data.datasets import PairSet
from common.data.sidesets import removed, take_out
from common.errors import MedpairError
from common.io.atomic import write_json
from common.io.manifest import versions
from common.metrics.copies import Likeness, find_copies
from common.metrics.slice_copies import KINDS, AuditScan, copy_audit
from common.metrics.values import Value, not_computed
from common.progress import Progress, silent
from segeval.audited import Audited, VolumeSet, read_audited
from segeval.card import check_card, update_card
from segeval.embedding import FEWEST, Contrast
from segeval.informed_copies import informed_copies
from segeval.likenesses import BLOCKS, aligned_measures, embedding_measure, mask_measure

ACTIONS = ("drop", "quarantine")
DECIDE = ("detail", "embedding")
"""Measures by which a pair is called a copy."""
NO_MASKS = not_computed("the masks are empty")


@dataclass(frozen=True)
class Audit:
    """Compare a generated pair set with the scans of its training.

    Args:
        synthetic_dir: the generated pair set.
        training_dir: pair set whose split "training" the generator was trained on.
        output_dir: gets ``audit.json``, the card and the embedding.
        held_out_dir: pair set of other persons; None takes the split "validation" of
            `training_dir`.
        action: "drop" deletes copies from the pair set, "quarantine" moves them into its folder
            ``quarantine``; None leaves them.
        embedding: how the embedding is trained.
        rows: pairs per volume that are aligned, those most alike in a coarse search.
        near: slices at most so far from the informed slice's place count as near it.
        mirror: also compare with scans reflected left to right.
        card: what card stands beside the report: "all", "generated" (no slices of real scans) or
            "none".

    Raises:
        MedpairError: for another action or card.
    """

    synthetic_dir: str
    training_dir: str
    output_dir: str
    held_out_dir: str | None = None
    action: str | None = None
    embedding: Contrast = field(default_factory=Contrast)
    rows: int = 3
    near: int = 2
    mirror: bool = True
    card: str = "all"

    def __post_init__(self) -> None:
        check_card(self.card)
        if self.action not in (None, *ACTIONS):
            raise MedpairError(f"action: {self.action!r}, wanted {' or '.join(ACTIONS)} or none")
        if self.action and self.synthetic_dir.startswith("phantom:"):
            raise MedpairError("action: phantoms in memory have no files; give a pair set's folder")

    def __call__(self, progress: Progress | None = None) -> dict[str, Any]:
        """Measure, take copies out where asked, write the report and mark the pair set as audited.

        Args:
            progress: called with ("audit", done, total).

        Returns:
            What ``audit.json`` holds, see `report`.

        Raises:
            MedpairError: for sets that do not fit together, or a pair set in use.
        """
        sets = read_audited(self.synthetic_dir, self.training_dir, self.held_out_dir)
        report = self.report(sets, progress or silent)
        if not self.synthetic_dir.startswith("phantom:"):
            report |= self._act(sets, report)
        write_json(Path(self.output_dir) / "audit.json", report)
        made = [self.synthetic_dir]
        update_card("audit", self.output_dir, self.training_dir, made, self.card)
        return report

    def report(self, sets: Audited, progress: Progress) -> dict[str, Any]:
        """Return all that is measured.

        Args:
            sets: from `read_audited`.
            progress: called with ("audit", done, total).

        Returns:
            ``format``, ``settings``, ``n``, ``n_training``, ``n_held_out``; ``n_copies`` pairs
            that are nearer to a training scan than persons are to each other by a measure of
            `DECIDE`, ``n_mem`` training scans that they copy, ``copies``: per id the measures and
            the scan; ``measures``: `find_copies` by "plain", "detail" (images after rigid
            alignment), "embedding" and "mask"; ``slices`` (`copy_audit`); ``informed``
            (`informed_copies`); ``problems``.
        """
        steps = iter(range(1, len(BLOCKS) + 4))

        def tick() -> None:
            progress("audit", next(steps), len(BLOCKS) + 3)

        found = dict(aligned_measures(sets, tick, rows=self.rows, mirror=self.mirror))
        measures: dict[str, Any] = {name: _judge(sets, like) for name, like in found.items()}
        measures["embedding"] = self._embedding(sets, progress)
        tick()
        measures["mask"] = _judge(sets, mask_measure(sets, mirror=self.mirror))
        tick()
        slices = self._slices(sets)
        tick()
        copies = _copies(measures)
        counted = [m["n_copies"] for m in map(measures.get, DECIDE) if isinstance(m, Mapping)]
        reasons = [n for n in counted if isinstance(n, str)]
        return {
            "format": FORMAT,
            "settings": self._settings(sets),
            "n": len(sets.made.ids),
            "n_training": len(sets.training.ids),
            "n_held_out": len(sets.held_out.ids),
            "n_copies": reasons[0] if reasons else len(copies),
            "n_mem": reasons[0] if reasons else len({c["training"] for c in copies.values()}),
            "copies": copies,
            "measures": measures,
            "slices": slices,
            "informed": informed_copies(sets, _thresholds(slices)),
            "problems": list(sets.problems),
        }

    def _embedding(self, sets: Audited, progress: Progress) -> dict[str, Any] | str:
        count = len(sets.training.ids)
        if count < FEWEST:
            return not_computed(f"N={count} training scans, an embedding needs at least {FEWEST}")
        cache = Path(self.output_dir)
        likeness = embedding_measure(sets, self.embedding, cache, progress, mirror=self.mirror)
        return _judge(sets, likeness)

    def _slices(self, sets: Audited) -> dict[str, object] | str:
        made, training, held_out = (
            _slices_of(group) for group in (sets.made, sets.training, sets.held_out)
        )
        if not made or not training:
            return NO_MASKS
        return copy_audit(made, training, held_out, near=self.near, mirror=self.mirror)

    def _settings(self, sets: Audited) -> dict[str, Any]:
        return {
            "sets": dict(sets.sets),
            "embedding": asdict(self.embedding),
            "decided_by": list(DECIDE),
            "rows": self.rows,
            "near": self.near,
            "mirror": self.mirror,
            "versions": versions("medpair", "torch", "monai", "numpy", "scipy"),
        }

    def _act(self, sets: Audited, report: Mapping[str, Any]) -> dict[str, Any]:
        """Take copies out, mark the pair set as audited and return the mark."""
        pairs = PairSet.open(self.synthetic_dir)
        if self.action:
            reasons = {name: _reason(copy) for name, copy in report["copies"].items()}
            take_out(pairs, reasons, quarantine=self.action == "quarantine")
        left = [name for name in report["copies"] if name in pairs.manifest]
        said = {
            "against": {name: sets.sets[name] for name in ("training", "held_out")},
            "n_copies": report["n_copies"],
            "n_mem": report["n_mem"],
            "copies_left": left,
            "removed": removed(pairs.dir),
            "action": self.action,
            "problems": report["problems"],
        }
        return mark_audited(pairs, said)


def _judge(sets: Audited, likeness: Likeness) -> dict[str, Any]:
    return find_copies(likeness, sets.made.ids, sets.training.scans, sets.held_out.scans)


def _slices_of(group: VolumeSet) -> list[AuditScan]:
    """Return the volumes with a body, as the audit of slices takes them."""
    items = zip(group.ids, group.images, group.labels, group.persons, group.records, strict=True)
    return [
        AuditScan(name, image, label, person, *_informed(record))
        for name, image, label, person, record in items
        if label.any()
    ]


def _informed(record: Mapping[str, Any]) -> tuple[str | None, int | None]:
    informed = record.get("informed", {})
    start = informed.get("start")
    return informed.get("person"), None if start is None else int(start)


def _thresholds(slices: Mapping[str, Any] | str) -> dict[str, Value]:
    if isinstance(slices, str):
        return dict.fromkeys(KINDS, slices)
    return {kind: slices[kind]["threshold"] for kind in KINDS}


def _copies(measures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the pairs that a deciding measure calls copies: which, and of which scan."""
    found: dict[str, dict[str, Any]] = {}
    for name in DECIDE:
        measure = measures[name]
        for pair in measure["copies"] if isinstance(measure, Mapping) else ():
            volume = measure["volumes"][pair]
            entry = found.setdefault(pair, {"training": volume["training"], "by": {}})
            entry["by"][name] = [volume["likeness"], measure["threshold"]]
    return dict(sorted(found.items()))


def _reason(copy: Mapping[str, Any]) -> str:
    seen = ", ".join(f"{name} {a:.3f} > {b:.3f}" for name, (a, b) in copy["by"].items())
    return f"copy of training scan {copy['training']}: {seen}"
