"""A comparison as Markdown: means per strategy, differences with intervals, what to mind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.metrics.statistics import LEAST_PERSONS
from common.metrics.values import Value

DASH = "–"


def table(content: Mapping[str, Any]) -> str:
    """Return the Markdown text of a comparison.

    Args:
        content: of ``compare.json``.
    """
    done = [arm for arm in content["arms"] if "result" not in arm]
    parts = ["# Comparison of training strategies", _setting(content, done), _means(done, "mean")]
    if any("groups" in arm for arm in done):
        parts += ["Mean over region groups:", _means(done, "groups_mean"), _groups(done)]
    parts += ["Differences (mean over labels, 95 % interval over persons):"]
    parts += [_differences(content["differences"]), "\n".join(f"* {n}" for n in notes(content))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setting(content: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> str:
    settings = content["settings"]
    seeds = ", ".join(map(str, settings["seeds"]))
    cases = f"{done[0]['n_cases']} scans of {done[0]['n_persons']} persons" if done else "no scan"
    how = f"{settings['folds']}-fold cross-validation" if settings["folds"] else "one test set"
    return (
        f"Tested on {cases} ({how}); seeds {seeds}, averaged within a scan; "
        f"surfaces agree up to {settings['tolerance_mm']:g} mm."
    )


def _means(arms: Sequence[Mapping[str, Any]], key: str) -> str:
    head = ["network", "strategy", "synthetic", "pairs", "updates", "Dice", "HD95 mm", "sDice"]
    rows = []
    for arm in arms:
        pairs = " → ".join(_pairs(step["pairs"]) for step in arm["steps"])
        updates = " + ".join(str(step["updates"]) for step in arm["steps"])
        scores = [_number(arm[key][m]) for m in ("dice", "hd95_mm", "surface_dice")]
        rows.append([*_names(arm), pairs, updates, *scores])
    return _rows(head, rows)


def _groups(arms: Sequence[Mapping[str, Any]]) -> str:
    names = list(arms[0]["groups"])
    head = ["network", "strategy", "synthetic", *(f"{n} Dice" for n in names)]
    head += [f"{n} HD95 mm" for n in names]
    rows = [
        [
            *_names(arm),
            *(_number(arm["groups"][n]["dice"]) for n in names),
            *(_number(arm["groups"][n]["hd95_mm"]) for n in names),
        ]
        for arm in arms
    ]
    return _rows(head, rows)


def _differences(differences: Sequence[Mapping[str, Any]]) -> str:
    head = ["network", "strategy", "synthetic", "minus", "Dice", "HD95 mm", "persons", "p (Dice)"]
    rows = []
    for entry in differences:
        if isinstance(entry["measures"], str):
            rows.append([*_names(entry), entry["against"], entry["measures"], DASH, DASH, DASH])
            continue
        for found, mark in ((entry, ""), (entry.get("unseen"), " (unseen persons)")):
            if isinstance(found, Mapping):
                dice, hd95 = (found["measures"][m]["mean"] for m in ("dice", "hd95_mm"))
                last = [_interval(dice), _interval(hd95), str(found["n_persons"])]
                against = entry["against"] + mark
                rows.append([*_names(entry), against, *last, _number(dice["p"])])
    return _rows(head, rows)


def notes(content: Mapping[str, Any]) -> list[str]:
    """Return what to mind: what was not run, few persons, persons that a generator saw.

    Args:
        content: of ``compare.json``.
    """
    done = [arm for arm in content["arms"] if "result" not in arm]
    found = [f"{' '.join(_names(a))}: {a['result']}." for a in content["arms"] if "result" in a]
    found += content["problems"]
    if done and done[0]["n_persons"] < LEAST_PERSONS:
        found.append(
            f"{done[0]['n_persons']} test persons are few: no test is computed below "
            f"{LEAST_PERSONS}, and intervals are rough."
        )
    marks: dict[str, set[tuple[str, Any]]] = {}
    for arm in done:
        if arm["synthetic"] is not None:
            cases = ((c["person"], c["generator_saw"]) for c in arm["cases"].values())
            marks.setdefault(arm["synthetic"], set()).update(cases)
    return found + [_mark(name, cases) for name, cases in marks.items()]


def _mark(name: str, found: set[tuple[str, Any]]) -> str:
    persons = len({person for person, _ in found})
    saw = len({person for person, mark in found if mark is True})
    if saw:
        return f"{name}: its generator saw {saw} of the {persons} test persons."
    if any(mark is not False for _, mark in found):
        return (
            f"{name}: whether its generator saw any of the {persons} test persons is not known; "
            "--generator-training says."
        )
    return f"{name}: its generator saw none of the {persons} test persons."


def _names(entry: Mapping[str, Any]) -> list[str]:
    return [entry["network"], entry["strategy"], entry["synthetic"] or DASH]


def _pairs(pairs: Mapping[str, int]) -> str:
    return " + ".join(f"{count} {name}" for name, count in pairs.items())


def _number(value: Value) -> str:
    return DASH if isinstance(value, str) else f"{value:.3f}"


def _interval(found: Mapping[str, Value]) -> str:
    mean, low, high = (found[key] for key in ("mean", "low", "high"))
    if isinstance(mean, str) or isinstance(low, str) or isinstance(high, str):
        return _number(mean)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
