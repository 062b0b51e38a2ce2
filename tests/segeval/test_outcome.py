from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.data.labels import LabelSchema, load_schema
from segeval.outcome import Cases, Result, average, compare_arms, saw

ABSENT = "not computed: the label is in neither mask"
MEASURES = ("dice", "hd95_mm", "surface_dice")


def cases(schema: LabelSchema, values: dict[str, float]) -> Cases:
    """Scores of which Dice is the value of its case, whatever the label; distances are 1 - Dice."""
    regions = (*schema.names[1:], *schema.groups)
    return {
        name: {
            region: {"dice": value, "hd95_mm": 1 - value, "surface_dice": value}
            for region in regions
        }
        for name, value in values.items()
    }


def result(found: Cases, scans_per_person: int = 2) -> Result:
    persons = {name: f"p{n // scans_per_person}" for n, name in enumerate(found)}
    return Result(found, persons, {0: found})


@pytest.fixture
def base() -> dict[str, float]:
    rng = np.random.default_rng(0)
    return {f"{n:02d}": float(v) for n, v in enumerate(rng.uniform(0.5, 0.8, 16))}


def test_a_planted_gain_is_found_in_every_label(
    schema: LabelSchema, base: dict[str, float]
) -> None:
    gained = {name: value + 0.05 + 0.001 * n for n, (name, value) in enumerate(base.items())}
    found = compare_arms(result(cases(schema, gained)), result(cases(schema, base)), schema)
    assert (found["n_cases"], found["n_persons"]) == (16, 8)
    dice = found["measures"]["dice"]
    assert set(dice["labels"]) == {"cortex", "subcortical_gm", "white_matter", "csf"}
    for row in (dice["mean"], *dice["labels"].values()):
        assert row["mean"] == pytest.approx(0.0575)
        assert 0.05 < row["low"] < row["mean"] < row["high"] < 0.066
        assert row["p"] == pytest.approx(2 / 2**8)
    assert dice["labels"]["csf"]["q"] == pytest.approx(2 / 2**8)  # all equal: nothing to correct
    distance = found["measures"]["hd95_mm"]["mean"]
    assert distance["mean"] == pytest.approx(-0.0575)
    assert distance["high"] < 0


def test_one_label_that_gains_is_corrected_for_the_others(
    schema: LabelSchema, base: dict[str, float]
) -> None:
    rng = np.random.default_rng(1)
    ours = cases(schema, {n: v + float(rng.normal(0, 0.01)) for n, v in base.items()})
    for name, value in base.items():
        ours[name]["csf"] = dict.fromkeys(MEASURES, value + 0.1)
    found = compare_arms(result(ours), result(cases(schema, base)), schema)
    rows = found["measures"]["dice"]["labels"]
    assert rows["csf"]["p"] == pytest.approx(2 / 2**8)
    assert rows["csf"]["q"] == pytest.approx(4 * 2 / 2**8)


def test_scans_of_one_person_do_not_narrow_the_interval(
    schema: LabelSchema, base: dict[str, float]
) -> None:
    """The same sixteen differences, of sixteen persons or of four."""
    rng = np.random.default_rng(2)
    gaps = np.repeat(rng.normal(0, 0.05, 4), 4)  # scans of a person gain alike
    ours = cases(schema, {n: v + float(g) for (n, v), g in zip(base.items(), gaps, strict=True)})
    widths = {}
    for scans in (1, 4):
        pair = result(ours, scans), result(cases(schema, base), scans)
        row = compare_arms(*pair, schema)["measures"]["dice"]["mean"]
        widths[scans] = row["high"] - row["low"]
        assert isinstance(row["p"], str) == (scans == 4)
    assert widths[4] > 1.5 * widths[1]


def test_cases_without_a_number_do_not_count(schema: LabelSchema, base: dict[str, float]) -> None:
    ours, theirs = cases(schema, base), cases(schema, base)
    for name in list(base)[:2]:  # the two scans of the first person
        ours[name]["csf"] = dict.fromkeys(MEASURES, ABSENT)
    found = compare_arms(result(ours), result(theirs), schema)["measures"]["dice"]["labels"]
    assert (found["csf"]["n_persons"], found["cortex"]["n_persons"]) == (7, 8)
    assert found["csf"]["p"] == "not computed: all 7 persons have difference 0"
    for name in base:
        ours[name]["csf"] = dict.fromkeys(MEASURES, ABSENT)
    row = compare_arms(result(ours), result(theirs), schema)["measures"]["dice"]["labels"]["csf"]
    assert row["mean"] == "not computed: no case has a number"
    assert row["p"] == row["q"] == "not computed: N=0 persons, wanted at least 6"


def test_some_cases_alone(schema: LabelSchema, base: dict[str, float]) -> None:
    gained = {name: value + 0.1 * (n < 4) for n, (name, value) in enumerate(base.items())}
    pair = result(cases(schema, gained)), result(cases(schema, base))
    found = compare_arms(*pair, schema, list(base)[:4])
    assert (found["n_cases"], found["n_persons"]) == (4, 2)
    assert found["measures"]["dice"]["mean"]["mean"] == pytest.approx(0.1)


def test_groups_are_compared_too(base: dict[str, float]) -> None:
    brats = load_schema("brats3")
    gained = {name: value + 0.1 for name, value in base.items()}
    dice = compare_arms(result(cases(brats, gained)), result(cases(brats, base)), brats)
    found: dict[str, Any] = dice["measures"]["dice"]
    assert set(found["groups"]) == {"WT", "TC", "ET"}
    assert found["groups_mean"]["mean"] == pytest.approx(0.1)
    assert "q" in found["groups"]["WT"]


def test_seeds_are_averaged_within_a_case(schema: LabelSchema) -> None:
    seeds = [cases(schema, {"a": value, "b": 0.5}) for value in (0.2, 0.4, 0.9)]
    seeds[0]["a"]["csf"] = dict.fromkeys(MEASURES, ABSENT)
    for scores in seeds:
        scores["b"]["csf"] = dict.fromkeys(MEASURES, ABSENT)
    found = average(seeds)
    assert found["a"]["cortex"]["dice"] == pytest.approx(0.5)
    assert found["a"]["csf"]["dice"] == pytest.approx(0.65)
    assert found["b"]["csf"]["dice"] == ABSENT


def test_marks_say_what_is_known() -> None:
    some = frozenset({"ann"})
    assert saw("ann", None) is None
    assert saw("ann", (some, False)) is saw("ann", (some, True)) is True
    assert saw("bob", (some, True)) is False
    assert saw("bob", (some, False)) == "not known"
