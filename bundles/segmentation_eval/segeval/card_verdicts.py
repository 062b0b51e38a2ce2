"""What a card decides: numbers beside their targets, and the answer in sentences made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from common.errors import MedpairError
from common.metrics.statistics import LEAST_PERSONS
from common.metrics.values import Value, not_computed
from segeval.card_values import brief, dig, number_at, parts_at

EXTRACTORS = {
    "encoder": "encoder of the segmenter",
    "radiomics": "radiomics",
    "radimagenet": "RadImageNet ResNet-50",
    "inception": "Inception-v3 (ImageNet)",
    "medicalnet": "MedicalNet 3D",
}
VIEWS = {"A": "axial", "C": "coronal", "S": "sagittal", "mean": "mean of views"}
LIKENESS = {
    "plain": "correlation after rigid alignment",
    "detail": "correlation of fine detail after rigid alignment",
    "embedding": "contrastive embedding",
    "mask": "Dice of masks",
}
WAYS = {
    "first": "Training on synthetic pairs first, then on real scans,",
    "both": "Training on real and synthetic pairs together",
    "both first": "Training on real and synthetic pairs together, then on real scans alone,",
}


@dataclass(frozen=True)
class Targets:
    """What the numbers of a good pair set reach.

    Attributes:
        alignment_ratio: least Dice on generated images over that on kept-back scans.
        seam_index: largest step at window joints over that beside them.
        fid_ratio: largest Frechet distance over its floor.
        copies: largest number of pairs that copy a training scan.
        gain: what the lower end of the gain's interval must exceed, in Dice.
    """

    alignment_ratio: float = 0.95
    seam_index: float = 1.05
    fid_ratio: float = 2.0
    copies: float = 0
    gain: float = 0.0


def read_targets(given: Mapping[str, Any] | None) -> Targets:
    """Return targets, the defaults where none is given.

    Args:
        given: numbers by name.

    Raises:
        MedpairError: for an unknown name or no number.
    """
    known = [item.name for item in fields(Targets)]
    for name, value in (given or {}).items():
        if name not in known:
            raise MedpairError(f"targets: {name!r} is unknown, wanted some of {', '.join(known)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise MedpairError(f"targets: {name} {value!r}, wanted a number; correct it")
    return Targets(**(given or {}))


@dataclass(frozen=True)
class Verdict:
    """A number beside what it should be.

    Attributes:
        name: what is measured.
        value: the number, or why there is none.
        low: lower end of its 95 % interval, where it has one.
        high: upper end.
        floor: the same measured between real scans, where there is such a number.
        beside: what the floor is.
        rule: "at least", "at most", "above".
        target: what it should be.
        meets: whether it is; the reason where that is not known.
    """

    name: str
    value: Value
    low: Value | None
    high: Value | None
    floor: Value | None
    beside: str
    rule: str
    target: float
    meets: bool | str


def verdicts(
    content: Mapping[str, Any], targets: Targets, headline: str, sets: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Return the table of verdicts.

    Args:
        content: of the card, with the summaries of all reports.
        targets: of the numbers.
        headline: strategy whose gain is judged; where it was not run, all are.
        sets: names of the generated set in the comparison; None for any.
    """
    rows = _gains(content, targets, headline, sets)
    rows.append(_alignment(content["judge"], targets.alignment_ratio))
    rows += _fidelity(content["judge"], targets.fid_ratio)
    rows.append(_seams(content["judge"], targets.seam_index))
    rows.append(_copies(content["audit"], targets.copies))
    return [asdict(row) for row in rows]


def chosen_gains(
    compare: Any, headline: str, sets: Sequence[str] | None
) -> list[Mapping[str, Any]]:
    """Return the gains of the headline's strategy, of all strategies where it was not run."""
    if isinstance(compare, str):
        return []
    own = [gain for gain in compare["gains"] if sets is None or gain["synthetic"] in sets]
    return [gain for gain in own if gain["strategy"] == headline] or own


def _gains(
    content: Mapping[str, Any], targets: Targets, headline: str, sets: Sequence[str] | None
) -> list[Verdict]:
    compare = content["compare"]
    found = [_gain(gain, targets.gain) for gain in chosen_gains(compare, headline, sets)]
    if found:
        return found
    why = not_computed("no arm was trained on real and synthetic pairs")
    value = compare if isinstance(compare, str) else why
    return [
        Verdict("Dice gained", value, None, None, None, "", "above", targets.gain, value),
    ]


def _gain(gain: Mapping[str, Any], target: float) -> Verdict:
    against = f" over {gain['against']}" if gain["against"] else ""
    name = f"Dice gained by {gain['strategy']}{against}, {gain['network']}, {gain['synthetic']}"
    low = gain["low"]
    meets: bool | str = low if isinstance(low, str) else low > target
    rule = "interval above"
    return Verdict(
        name, gain["mean"], low, gain["high"], None, "real scans alone", rule, target, meets
    )


def _at_most(value: Value, target: float) -> bool | str:
    return value if isinstance(value, str) else value <= target


def _alignment(judge: Any, target: float) -> Verdict:
    value = number_at(judge, "alignment", "mean", "ratio")
    floor = number_at(judge, "alignment", "mean", "real_dice")
    made = number_at(judge, "alignment", "mean", "dice")
    beside = "" if isinstance(made, str) else f"Dice {brief(made)} over that of kept-back scans"
    meets: bool | str = value if isinstance(value, str) else value >= target
    name = "Alignment ratio of image and mask"
    return Verdict(name, value, None, None, floor, beside, "at least", target, meets)


def _fidelity(judge: Any, target: float) -> list[Verdict]:
    """Judge each network that is a slice extractor; the voxels have no Frechet distance."""
    names = [name for name in parts_at(judge, "fidelity") if name != "voxels"] or ["encoder"]
    rows = []
    for name in names:
        value, floor, distance = (
            number_at(judge, "fidelity", name, "mean", "fid", key)
            for key in ("ratio", "floor", "distance")
        )
        beside = "" if isinstance(distance, str) else f"distance {brief(distance)} over the floor"
        title = f"FID over its floor, {EXTRACTORS.get(name, name)}"
        meets = _at_most(value, target)
        rows.append(
            Verdict(title, value, None, None, floor, beside, "at most", target, meets),
        )
    return rows


def _seams(judge: Any, target: float) -> Verdict:
    value = number_at(judge, "consistency", "seams", "seam_index")
    meets = _at_most(value, target)
    return Verdict("Seam index", value, None, None, None, "", "at most", target, meets)


def _copies(audit: Any, target: float) -> Verdict:
    value, left = number_at(audit, "n_copies"), number_at(audit, "copies_left")
    if not isinstance(value, str) and not isinstance(left, str):
        value = left  # those that were taken out are no longer in the set
    count = dig(audit, "n")
    beside = f"of {count} audited pairs" if isinstance(count, int) else ""
    name = "Copies of training scans"
    return Verdict(
        name, value, None, None, None, beside, "at most", target, _at_most(value, target)
    )


def answer(
    content: Mapping[str, Any], headline: str, sets: Sequence[str] | None, target: float
) -> list[str]:
    """Return what the card answers, in sentences.

    Args:
        content: of the card, with its verdicts.
        headline: strategy that the first sentence is of.
        sets: names of the generated set in the comparison; None for any.
        target: what the lower end of an interval must exceed.
    """
    compare = content["compare"]
    gains = chosen_gains(compare, headline, sets)
    if isinstance(compare, str):
        said = ["Whether the pairs help a segmentation is not known: " + _plain(compare) + "."]
    elif not gains:
        said = ["No gain shown: no network was trained on real and synthetic pairs."]
    else:
        said = [_sentence(gain, compare["seeds"], target) for gain in gains]
        said += _count(compare["gains"], sets, target)
    return [*said, _met(content["verdicts"])]


def _plain(reason: str) -> str:
    return reason.removeprefix(not_computed("")).strip()


def _sentence(gain: Mapping[str, Any], seeds: Sequence[int], target: float) -> str:
    mean, low, high = (gain[key] for key in ("mean", "low", "high"))
    where = f"{gain['network']}, set {gain['synthetic']}"
    if isinstance(mean, str):
        return f"No gain shown by {gain['strategy']} ({where}): {_plain(mean)}."
    if isinstance(low, str) or isinstance(high, str):
        change, verb, interval = "No gain shown: ", "changed", f" ({_plain(str(low))})"
    else:
        change = "" if low > target or high < 0 else "No gain shown: "
        verb = "raised" if low > target else "lowered" if high < 0 else "changed"
        interval = f" [{brief(low, signed=True)}, {brief(high, signed=True)}]"
    own, other = gain["updates"]
    equal = "at equal updates" if own == other else f"at {own} updates, real alone at {other}"
    way = WAYS[gain["way"]]
    by = brief(mean, signed=True) if verb == "changed" else f"{abs(mean):.3f}"
    persons = gain["n_persons"]
    rough = ": few, so the interval is rough" if persons < LEAST_PERSONS else ""
    over = "over" if verb == "raised" else "against"
    who = f"{gain['strategy']} minus {gain['against']}, {where}"
    return (
        f"{change}{way[:1].lower() + way[1:] if change else way} {verb} Dice by {by}{interval} "
        f"{over} real scans alone {equal} ({who}, {len(seeds)} seeds, {persons} test "
        f"persons{rough})."
    )


def _count(
    gains: Sequence[Mapping[str, Any]], sets: Sequence[str] | None, target: float
) -> list[str]:
    own = [gain for gain in gains if sets is None or gain["synthetic"] in sets]
    known = [gain["low"] for gain in own if not isinstance(gain["low"], str)]
    if len(known) < 2:
        return []
    above = sum(low > target for low in known)
    return [
        f"Of {len(known)} ways to use the pairs that were compared with real scans alone, {above} "
        f"have an interval above {target:g}."
    ]


def _met(rows: Sequence[Mapping[str, Any]]) -> str:
    known = [row["meets"] for row in rows if not isinstance(row["meets"], str)]
    lacking = len(rows) - len(known)
    rest = f"; {lacking} not computed" if lacking else ""
    return f"{sum(known)} of {len(known)} targets are met{rest}."
