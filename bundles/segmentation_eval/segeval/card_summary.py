"""The numbers of each report that a card shows; what is kept per pair or scan stays behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.metrics.slice_copies import KINDS
from common.metrics.statistics import bootstrap_interval, by_person
from common.metrics.values import Value, mean_of, not_computed
from segeval.card_reports import Reports
from segeval.card_values import dig, is_reason, number_at, parts_at, without
from segeval.table import notes

NAMES = ("network", "strategy", "synthetic")
MEASURES = ("dice", "hd95_mm", "surface_dice")
REAL = ("real", "target")
JUDGED = (
    "n",
    "fidelity",
    "diversity",
    "alignment",
    "intensity",
    "consistency",
    "detail_ratio",
)


def summaries(reports: Reports) -> dict[str, Any]:
    """Return the summary of each report, or why there is none.

    Args:
        reports: that fit together.
    """
    found: dict[str, Any] = {}
    for kind, make in (("compare", compared), ("judge", judged), ("audit", audited)):
        report = reports.found.get(kind)
        found[kind] = reports.left_out[kind] if report is None else make(report.content)
    return found


def judged(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card shows of ``judge.json``."""
    masks, paired = dig(report, "masks"), dig(report, "paired")
    left_out = {
        "realism": ("statistics",),
        "anatomy": ("labels",),
        "anatomy_real": ("labels",),
        "novelty": ("nearest",),
        "novelty_mirrored": ("nearest",),
    }
    found = {key: dig(report, key) for key in JUDGED}
    found["masks"] = (
        {name: without(dig(masks, name), *keys) for name, keys in left_out.items()}
        if isinstance(masks, Mapping)
        else masks
    )
    if isinstance(paired, Mapping):
        paired = {**paired, "fidelity": without(dig(paired, "fidelity"), "pairs")}
    return found | {"paired": paired}


def audited(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card shows of ``audit.json``."""
    found = {key: number_at(report, key) for key in ("n", "n_training", "n_held_out")}
    found |= {key: number_at(report, key) for key in ("n_copies", "n_mem")}
    for key, name in (("copies_left", "copies_left"), ("removed", "taken_out")):
        listed = dig(report, key)
        found[name] = (
            not_computed("the pair set was not marked") if isinstance(listed, str) else len(listed)
        )
    measures = {
        name: without(part, "volumes", "copies", "copied")
        for name, part in parts_at(report, "measures").items()
    }
    slices = dig(report, "slices")
    if isinstance(slices, Mapping):
        slices = {kind: without(dig(slices, kind), "volumes") for kind in KINDS}
    return {
        **found,
        "decided_by": dig(report, "settings", "decided_by"),
        "measures": measures,
        "slices": slices,
        "informed": without(dig(report, "informed"), "pairs"),
    }


def compared(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card shows of ``compare.json``; Dice of arms with 95 % intervals."""
    arms = [_arm(arm) for arm in report["arms"]]
    settings = report["settings"]
    return {
        "seeds": settings["seeds"],
        "folds": settings.get("folds"),
        "tolerance_mm": number_at(settings, "tolerance_mm"),
        "arms": arms,
        "differences": list(report["differences"]),
        "gains": gains(arms, report["differences"]),
        "low_data": low_data(arms),
        "notes": notes(report),
    }


def _arm(arm: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: arm[key] for key in NAMES}
    if "result" in arm:
        return {**named, "says": str(arm.get("says", "")), "result": arm["result"]}
    steps = [dict(step["pairs"]) for step in arm["steps"]]
    regions = [*arm["labels"], *arm.get("groups", {})]
    points = {**arm["labels"], **arm.get("groups", {})}
    return {
        **named,
        "says": str(arm["says"]),
        "steps": steps,
        "updates": sum(step["updates"] for step in arm["steps"]),
        "real_pairs": next((s[k] for s in reversed(steps) for k in REAL if k in s), 0),
        "n_cases": arm["n_cases"],
        "n_persons": arm["n_persons"],
        "mean_over": list(arm["mean_over"]),
        "mean": {
            "dice": _interval(arm, arm["mean_over"], number_at(arm, "mean", "dice")),
            **{key: number_at(arm, "mean", key) for key in MEASURES[1:]},
        },
        "regions": {
            name: {
                "dice": _interval(arm, [name], number_at(points[name], "dice")),
                **{key: number_at(points[name], key) for key in MEASURES[1:]},
            }
            for name in regions
        },
    }


def _interval(arm: Mapping[str, Any], regions: Iterable[str], mean: Value) -> dict[str, Value]:
    """Return a mean over cases with the interval that re-drawn test persons give."""
    cases = arm["cases"]
    names = list(regions)
    values = {
        case: mean_of(number_at(found, "scores", name, "dice") for name in names)
        for case, found in cases.items()
    }
    persons = {case: str(found["person"]) for case, found in cases.items()}
    return {**bootstrap_interval(by_person(values, persons)), "mean": mean}


def gains(
    arms: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return for each arm with real and synthetic pairs its difference to one with real alone.

    Of the arms that it was compared with, the one counts that took as many optimiser updates, or
    the least number above; a longer training must not pass for a gain.

    Args:
        arms: from `compared`.
        differences: of ``compare.json``.

    Returns:
        Per arm its names, ``says``, ``way`` (in which order it saw the pairs), ``against``,
        ``updates`` of both, ``n_persons``, and ``mean``, ``low``, ``high`` of the difference in
        Dice (mean over labels); reasons where there is no such arm.
    """
    found = []
    for arm in arms:
        way = _way(arm)
        if way is None:
            continue
        fair = [
            (reference["updates"], entry)
            for entry in differences
            if _same(entry, arm)
            for reference in arms
            if _is_fair(reference, arm, entry)
        ]
        fair.sort(key=lambda pair: pair[0])
        found.append(_gain(arm, way, *(fair[0] if fair else (None, None))))
    return found


def _gain(
    arm: Mapping[str, Any], way: str, updates: int | None, entry: Mapping[str, Any] | None
) -> dict[str, Any]:
    said = {**{key: arm[key] for key in NAMES}, "says": arm["says"], "way": way}
    if entry is None:
        reason = not_computed("real scans alone were not trained on for as many updates")
        lacking = dict.fromkeys(("mean", "low", "high"), reason)
        return {**said, "against": None, "updates": [arm["updates"], None], **lacking}
    dice = entry["measures"]["dice"]["mean"]
    return {
        **said,
        "against": entry["against"],
        "updates": [arm["updates"], updates],
        "n_persons": entry["n_persons"],
        **{key: number_at(dice, key) for key in ("mean", "low", "high", "p")},
    }


def _way(arm: Mapping[str, Any]) -> str | None:
    """Return "first", "both" or "both first"; None without real or without synthetic pairs."""
    steps = arm.get("steps", ())
    made = ["synthetic" in step for step in steps]
    real = [any(key in step for key in REAL) for step in steps]
    if not any(made) or not any(real):
        return None
    if not real[0]:
        return "first"
    return "both" if all(made) else "both first"


def _same(entry: Mapping[str, Any], arm: Mapping[str, Any]) -> bool:
    return all(entry[key] == arm[key] for key in NAMES)


def _is_fair(
    reference: Mapping[str, Any], arm: Mapping[str, Any], entry: Mapping[str, Any]
) -> bool:
    return (
        reference["network"] == arm["network"]
        and reference["strategy"] == entry["against"]
        and reference["synthetic"] is None
        and reference.get("updates", 0) >= arm["updates"]
        and not is_reason(entry["measures"])
    )


LOW = {
    "real": ("real alone", "E2-1"),
    "equal": ("real alone, as long as fine-tuned", "E2-1-equal"),
    "both": ("real and synthetic", "E2-3"),
    "tuned": ("synthetic, then real", "E2-4"),
}
"""Strategies low-N-KEY: what they are called, and the same strategy with all real scans."""


def low_data(arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return curves of Dice over the number of real scans, where few were tried.

    Args:
        arms: from `compared`.

    Returns:
        Curves: ``network``, ``synthetic``, ``series``, and ``points``, each ``real_pairs``,
        ``mean``, ``low``, ``high``, by rising number.
    """
    curves: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    few = False
    for arm in arms:
        name = str(arm["strategy"])
        for key, (series, whole) in LOW.items():
            is_low = name.startswith("low-") and name.endswith(f"-{key}")
            if "steps" in arm and (is_low or name == whole):
                few |= is_low
                point = {"real_pairs": arm["real_pairs"], **arm["mean"]["dice"]}
                place = (arm["network"], arm["synthetic"], series)
                curves.setdefault(place, []).append(point)
    if not few:
        return []
    return [
        dict(zip((*NAMES[::2], "series"), place, strict=True))
        | {"points": sorted(points, key=lambda point: int(point["real_pairs"]))}
        for place, points in curves.items()
    ]
