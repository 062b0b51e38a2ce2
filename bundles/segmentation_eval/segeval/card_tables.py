"""Tables of a card, made of the content of ``card.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.metrics.values import Value
from segeval.card_drawing import is_part
from segeval.card_values import brief, dig, is_reason, number_at, parts_at
from segeval.card_verdicts import EXTRACTORS, LIKENESS, VIEWS


@dataclass(frozen=True)
class Piece:
    """A text, and the number that it shows in full where it shows one."""

    text: str
    value: float | int | None = None

    @property
    def is_reason(self) -> bool:
        """Whether it says why there is no number."""
        return is_reason(self.text)


Cell = tuple[Piece, ...]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it. A row that is too short ends in a wide cell.

    Attributes:
        caption: what it shows.
        head: names of the columns.
        rows: cells.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def text(words: object) -> Cell:
    """Return a cell of words."""
    return (Piece(str(words)),)


def number(value: Value, signed: bool = False) -> Cell:
    """Return a cell of a number, or of the reason why there is none."""
    return (_piece(value, signed),)


def _piece(value: Value, signed: bool = False) -> Piece:
    if isinstance(value, str):
        return Piece(value)
    return Piece(brief(value, signed), value)


def span(mean: Value, low: Value | None, high: Value | None, signed: bool = False) -> Cell:
    """Return a cell of a number with its interval, as far as it is known."""
    if isinstance(mean, str) or low is None or high is None:
        return number(mean, signed)
    ends = [_piece(low, signed), _piece(high, signed)]
    if isinstance(low, str) or isinstance(high, str):
        return (_piece(mean, signed), Piece(" ("), ends[0], Piece(")"))
    return (_piece(mean, signed), Piece(" ["), ends[0], Piece(", "), ends[1], Piece("]"))


def _cells(tree: Any, *keys: str) -> list[Cell]:
    return [number(number_at(tree, key)) for key in keys]


def _ends(tree: Any, key: str) -> Cell:
    found = dig(tree, key)
    if not isinstance(found, list) or len(found) != 2:
        return text(found) if is_reason(found) else text("")
    return (_piece(found[0]), Piece(" to "), _piece(found[1]))


def verdict_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of verdicts; its last column says whether the target is met."""
    made = []
    for row in rows:
        is_gain = row["low"] is not None
        has_floor = row["floor"] is not None and not isinstance(row["floor"], str)
        floor = number(row["floor"]) if has_floor else ()
        said = (*floor, Piece(("; " if floor and row["beside"] else "") + row["beside"]))
        target = (Piece(f"{row['rule']} "), _piece(row["target"]))
        meets = row["meets"]
        mark = meets if isinstance(meets, str) else "✓ met" if meets else "✗ not met"
        value = span(row["value"], row["low"], row["high"], signed=is_gain)
        if isinstance(row["value"], str):
            mark = "? not known"
        made.append([text(row["name"]), value, said, target, text(mark)])
    head = ["number", "value [95 % interval]", "floor; beside", "target", "verdict"]
    return Table("Numbers that decide, beside their floors and targets", head, made)


def compare_tables(compare: Any) -> list[Table]:
    """Return strategies, differences, and Dice per label."""
    if not is_part(compare):
        return []
    arms = compare["arms"]
    tables = [_strategies(arms), _differences(compare["differences"])]
    tested = [arm for arm in arms if "regions" in arm]
    return [*tables, _per_label(tested)] if tested else tables


def _names(entry: Mapping[str, Any]) -> list[Cell]:
    return [text(entry["strategy"]), text(entry["network"]), text(entry["synthetic"] or "–")]


def _strategies(arms: Sequence[Mapping[str, Any]]) -> Table:
    head = ["strategy", "network", "synthetic set", "pairs", "updates"]
    head += ["Dice [95 % interval]", "HD95 (mm)", "surface Dice"]
    rows = []
    for arm in arms:
        if "result" in arm:
            rows.append([*_names(arm), text(arm["result"])])
            continue
        pairs = " → ".join(
            " + ".join(f"{count} {name}" for name, count in step.items()) for step in arm["steps"]
        )
        mean = arm["mean"]
        dice = span(*(mean["dice"][key] for key in ("mean", "low", "high")))
        row = [*_names(arm), text(pairs), number(arm["updates"]), dice]
        rows.append([*row, number(mean["hd95_mm"]), number(mean["surface_dice"])])
    return Table("Strategies: means over labels and test scans", head, rows)


def _differences(differences: Sequence[Mapping[str, Any]]) -> Table:
    """Return differences; why no p is computed is said once where it is the same for all."""
    found = [
        ([*_names(entry), text(f"{entry['against']}{mark}")], part)
        for entry in differences
        for part, mark in ((entry, ""), (entry.get("unseen"), " (persons unseen)"))
        if part is not None
    ]
    compared = [part for _, part in found if is_part(dig(part, "measures"))]
    tests = {number_at(part, "measures", "dice", "mean", "p") for part in compared}
    shared = next(iter(tests)) if len(tests) == 1 and is_reason(*tests) else None
    rows = [[*names, *_measures(part, shared is None)] for names, part in found]
    head = ["strategy", "network", "synthetic set", "minus", "Dice [95 % interval]"]
    head += ["HD95 in mm [95 % interval]", "persons", *([] if shared else ["p (Dice)"])]
    why = f" (p {shared})" if shared else ""
    return Table(f"Differences between strategies, mean over labels{why}", head, rows)


def _measures(part: Any, tested: bool) -> list[Cell]:
    measures = dig(part, "measures")
    if not is_part(measures):
        return [text(measures)]
    dice, hd95 = (measures[key]["mean"] for key in ("dice", "hd95_mm"))
    cells = [_difference(dice), _difference(hd95), number(part["n_persons"])]
    return [*cells, number(dice["p"])] if tested else cells


def _difference(found: Mapping[str, Value]) -> Cell:
    return span(found["mean"], found["low"], found["high"], signed=True)


def _per_label(arms: Sequence[Mapping[str, Any]]) -> Table:
    names = list(arms[0]["regions"])
    head = ["strategy", "network", "synthetic set", *(name.replace("_", " ") for name in names)]
    rows = []
    for arm in arms:
        found = [arm["regions"][name]["dice"] for name in names]
        dice = [span(part["mean"], part["low"], part["high"]) for part in found]
        rows.append([*_names(arm), *dice])
    return Table("Dice per label [95 % interval over test persons]", head, rows)


FIDELITY = (
    ("fid", "distance"),
    ("fid", "floor"),
    ("fid", "ratio"),
    ("kid", "distance"),
    ("kid", "floor"),
    ("mmd", "distance"),
    ("mmd", "floor"),
    ("precision", "share"),
    ("precision", "floor"),
    ("recall", "share"),
    ("recall", "floor"),
)


def fidelity_table(judge: Any) -> Table:
    """Return distances to real scans beside their floors."""
    head = ["features", "view", "slices", "FID", "floor", "FID / floor", "KID", "floor"]
    head += ["MMD", "floor", "precision", "floor", "recall", "floor"]
    rows: list[list[Cell]] = []
    for name, found in parts_at(judge, "fidelity").items():
        title = text(EXTRACTORS.get(name, name))
        if isinstance(found, str):
            rows.append([title, text(found)])
        elif name == "voxels":
            values = [number_at(found, key) for key in ("distance", "floor")]
            said = [Piece("linear MMD "), _piece(values[0]), Piece(", floor "), _piece(values[1])]
            rows.append([title, tuple(said)])
        else:
            views = {**parts_at(found, "views"), "mean": dig(found, "mean")}
            rows += [[title, *_view(view, part)] for view, part in views.items()]
    return Table("Distances to real scans (KID and MMD: floor 0 on average)", head, rows)


def _view(view: str, part: Any) -> list[Cell]:
    slices = text("") if view == "mean" else number(number_at(part, "slices"))
    values = [number(number_at(part, *keys)) for keys in FIDELITY]
    return [text(VIEWS.get(view, view)), slices, *values]


def alignment_table(judge: Any) -> Table:
    """Return the agreement of images with their masks, by a segmenter trained on real scans."""
    labels = parts_at(judge, "alignment", "labels")
    labels["mean over " + ", ".join(_listed(judge))] = dig(judge, "alignment", "mean")
    keys = ("dice", "real_dice", "ratio", "hd95_mm", "real_hd95_mm", "hd95_ratio")
    rows = [[text(name), *_cells(part, *keys)] for name, part in labels.items()]
    head = ["label", "Dice", "Dice of kept-back scans", "ratio", "HD95 (mm)"]
    head += ["HD95 of kept-back scans (mm)", "ratio"]
    return Table("Alignment of image and mask", head, rows)


def _listed(judge: Any) -> list[str]:
    found = dig(judge, "alignment", "mean_over")
    return [str(name) for name in found] if isinstance(found, list) else ["labels"]


def intensity_table(judge: Any) -> Table:
    """Return where the medians of labels lie beside those of real scans."""
    labels = parts_at(judge, "intensity", "range", "labels")
    rows: list[list[Cell]] = []
    for name, part in labels.items():
        ends = (_piece(number_at(part, "low")), Piece(" to "), _piece(number_at(part, "high")))
        distance = dig(judge, "intensity", "distance", name)
        row = [text(name), ends, number(number_at(part, "inside"))]
        rows.append([*row, *_cells(distance, "distance", "floor", "ratio")])
    everything = number_at(judge, "intensity", "range", "all_inside")
    rows.append([text("all labels of a pair"), text(""), number(everything), *[text("")] * 3])
    head = ["label", "real range of medians", "share of pairs inside"]
    head += ["Wasserstein distance", "floor", "distance / floor"]
    return Table("Median intensity per label (normalised unit)", head, rows)


def range_table(found: Any) -> Table:
    """Return volumes per label of both sets."""
    rows = []
    for name, part in parts_at(found, "volume_ml").items():
        sides = [_side(part[side]) for side in ("real", "synthetic")]
        rows.append([text(name), *sides, number(part["inside"])])
    head = ["label", "real: median [range]", "generated: median [range]", "share of pairs inside"]
    return Table("Volume per label (ml)", head, rows)


def _side(part: Any) -> Cell:
    if isinstance(part, str):
        return text(part)
    return span(part["median"], part["low"], part["high"])


def consistency_table(judge: Any) -> Table:
    """Return steps from slice to slice over those of real scans."""
    keys = ("slice_noise", "odd_even", "slice_offset")
    rows = [
        [
            text(axis),
            *(
                cell
                for key in keys
                for cell in (*_cells(part, key), _ends(part, f"{key}_real_range"))
            ),
        ]
        for axis, part in parts_at(judge, "consistency", "relative").items()
    ]
    head = ["axis", "slice noise", "real range", "odd-even", "real range"]
    head += ["slice offset", "real range"]
    return Table("Slice to slice, real mean = 1", head, rows)


def mask_tables(judge: Any) -> list[Table]:
    """Return realism, anatomical rules, and other measures of a whole set."""
    ratios = parts_at(judge, "masks", "realism", "ratio")
    realism = [[text(name.replace("_", " ")), number(value)] for name, value in ratios.items()]
    rules = parts_at(judge, "masks", "anatomy", "rules")
    rules["all rules"] = dig(judge, "masks", "anatomy", "all")
    anatomy = []
    for name in rules:
        keys = ("rules", name) if name != "all rules" else ("all",)
        sides = [number_at(judge, "masks", part, *keys) for part in ("anatomy", "anatomy_real")]
        anatomy.append([text(name), *(number(value) for value in sides)])
    return [
        Table("Masks: distance of statistics over its floor", ["statistic", "ratio"], realism),
        Table("Masks that keep anatomical rules", ["rule", "generated", "real"], anatomy),
        _others(judge),
    ]


def _others(judge: Any) -> Table:
    places = {
        "diversity: MS-SSIM between pairs (1: equal)": ("diversity", "ms_ssim", "pairwise"),
        "… between real scans": ("diversity", "ms_ssim", "real"),
        "diversity: LPIPS between pairs (0: equal)": ("diversity", "lpips", "pairwise"),
        "… between real scans (LPIPS)": ("diversity", "lpips", "real"),
        "fine detail over that of real scans": ("detail_ratio",),
        "novelty: largest Dice with a training mask": ("masks", "novelty", "max"),
        "… largest Dice of masks of different persons": ("masks", "novelty", "reference"),
    }
    rows = [[text(name), number(number_at(judge, *keys))] for name, keys in places.items()]
    for view, scores in parts_at(judge, "paired", "fidelity", "mean").items():
        rows += [
            [text(f"images of real masks: {score}, {view}"), number(number_at(scores, score))]
            for score in scores
        ]
    if isinstance(dig(judge, "paired"), str):
        rows.append([text("images of real masks"), text(dig(judge, "paired"))])
    return Table("Other measures of the set", ["measure", "value"], rows)


def audit_tables(audit: Any) -> list[Table]:
    """Return copies by measure, and slices near training slices."""
    if not is_part(audit):
        return []
    rows = [_measure(name, part, audit) for name, part in audit["measures"].items()]
    head = ["measure", "threshold", "pairs above", "scans copied", "by chance"]
    head += ["distance ratio, median", "… of kept-back scans", "membership AUC [95 % interval]"]
    tables = [Table("Copies of training scans, by measure of likeness", head, rows)]
    slices = _slices(audit)
    return [*tables, slices] if slices.rows else tables


def _measure(name: str, part: Any, audit: Mapping[str, Any]) -> list[Cell]:
    decides = name in (audit["decided_by"] if isinstance(audit["decided_by"], list) else ())
    said = LIKENESS.get(name, name)
    title = text(f"{said} (decides)" if decides else said)
    if isinstance(part, str):
        return [title, text(part)]
    auc, low, high = (number_at(part, "membership", key) for key in ("auc", "low", "high"))
    first = _cells(part, "threshold", "n_copies", "n_mem", "by_chance")
    ratios = [number(number_at(part, "ratio", key)) for key in ("median", "fair")]
    return [title, *first, *ratios, span(auc, low, high)]


def _slices(audit: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for kind, part in parts_at(audit, "slices").items():
        for place in ("all", "near_informed", "elsewhere"):
            found = dig(part, place)
            name = text(f"{kind}, {place.replace('_', ' ')}")
            if isinstance(found, str):
                rows.append([name, text(found)])
            else:
                rows.append([name, *_cells(found, "slices", "median", "share_above")])
    informed = dig(audit, "informed")
    for kind in ("plain", "detail"):
        name = text(f"{kind}, start slice with the slice that informed it")
        if is_part(informed):
            said = dig(informed, kind)
            count = number(number_at(informed, "n"))
            rows.append([name, count, *_cells(said, "median", "share_above")])
        elif rows:
            rows.append([name, text(informed)])
    head = ["slices", "number", "median likeness", "share above the threshold (fair: 0.01)"]
    return Table("Slices beside training slices", head, rows)


def provenance_tables(content: Mapping[str, Any]) -> list[Table]:
    """Return pair sets, reports and versions."""
    sets = []
    for said in content["sets"]:
        names = [text(said["role"]), text(said["folder"])]
        count = number(said["pairs"]) if isinstance(said["pairs"], int) else text("")
        sets.append([*names, count, text(said["manifest_sha256"] or "in memory")])
    reports = []
    for kind, said in content["reports"].items():
        if isinstance(said, str):
            reports.append([text(kind), text(said)])
        else:
            versions = ", ".join(f"{name} {v}" for name, v in said["versions"].items())
            reports.append([text(kind), text(said["sha256"]), text(versions)])
    return [
        Table("Pair sets", ["part", "folder", "pairs", "SHA-256 of the manifest"], sets),
        Table("Reports", ["report", "SHA-256", "versions"], reports),
    ]
