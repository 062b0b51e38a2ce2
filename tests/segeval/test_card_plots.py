"""Plots and tables of a card at the edges of what reports may hold."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pytest

from common.metrics.values import not_computed
from segeval.card_comparison_plots import dice, gained, low_data
from segeval.card_drawing import Plot
from segeval.card_plots import fidelity, label_ranges, steps
from segeval.card_tables import audit_tables, compare_tables

WHY = not_computed("because")
SPREAD = {"low": 1.0, "p5": 2.0, "median": 3.0, "p95": 4.0, "high": 5.0, "n": 9}


def ranges(**changes: Any) -> dict[str, Any]:
    return {"volume_ml": {"cortex": {"real": SPREAD, "synthetic": SPREAD | changes, "inside": 1.0}}}


def drawn(found: Plot | str) -> Plot:
    assert isinstance(found, Plot)
    assert found.svg.startswith(b"<svg")
    return found


def test_a_reason_comes_back_as_it_is() -> None:
    for plot in (dice, gained, low_data, steps):
        assert plot(WHY) == WHY
    assert fidelity(WHY, 2.0) == WHY
    assert label_ranges(WHY, "volume_ml", "ml") == WHY
    assert compare_tables(WHY) == audit_tables(WHY) == []


def test_empty_parts_have_a_reason() -> None:
    empty: dict[str, Any] = {"arms": [], "gains": [], "low_data": [], "fidelity": {"encoder": WHY}}
    for found in (dice(empty), gained(empty), low_data(empty), fidelity(empty, 2.0)):
        assert str(found).startswith("not computed: ")
    both = {name: {"D": {"first": 1, "steps": [WHY, WHY]}} for name in ("real", "synthetic")}
    assert str(steps({"consistency": {"profiles": both}})).startswith("not computed: no two")


def test_a_label_that_no_pair_holds_has_its_place_on_the_axis() -> None:
    plot = drawn(label_ranges(ranges(low=0.0, p5=0.0, median=0.0), "volume_ml", "volume (ml)"))
    assert "real 1.00 to 5.00, synthetic 0 to 5.00" in plot.alt
    one = {"volume_ml": {"csf": {"real": SPREAD, "synthetic": WHY, "inside": WHY}}}
    assert "synthetic" not in drawn(label_ranges(one, "volume_ml", "volume (ml)")).alt


def test_the_users_style_changes_nothing_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    first = drawn(label_ranges(ranges(), "volume_ml", "volume (ml)"))
    monkeypatch.setitem(mpl.rcParams, "font.size", 30.0)
    monkeypatch.setitem(mpl.rcParams, "axes.grid", False)
    again = drawn(label_ranges(ranges(), "volume_ml", "volume (ml)"))
    assert again.svg == first.svg
    assert mpl.rcParams["font.size"] == 30.0


def test_names_that_the_font_lacks_and_formulas_are_only_text() -> None:
    gain = {"network": "$\\frac{", "strategy": "訓練", "against": "a", "synthetic": "s"}
    plot = drawn(gained({"gains": [gain | {"mean": 0.1, "low": 0.0, "high": 0.2}]}))
    assert "$\\frac{ · 訓練 − a · s +0.100 [+0.000, +0.200]" in plot.alt


def test_ratios_are_drawn_where_they_are_known() -> None:
    views = {"A": {"fid": {"ratio": 3.0}}, "C": {"fid": {"ratio": WHY}}}
    found = {"fidelity": {"encoder": {"views": views, "mean": {"fid": {"ratio": 0.5}}}}}
    plot = drawn(fidelity(found, 2.0))
    assert plot.alt.endswith("encoder of the segmenter A 3.00, mean 0.500.")


@pytest.mark.parametrize("tested", [True, False])
def test_why_there_is_no_test_is_said_once(tested: bool) -> None:
    part = {"mean": 0.1, "low": 0.0, "high": 0.2, "p": 0.04 if tested else WHY}
    entry = {"network": "n", "strategy": "s", "synthetic": None, "against": "r", "n_persons": 4}
    entries = [entry | {"measures": {"dice": {"mean": part}, "hd95_mm": {"mean": part}}}] * 2
    entries.append(entry | {"measures": not_computed("r was not run")})
    table = compare_tables({"arms": [], "differences": entries})[1]
    assert ("p (Dice)" in table.head) is tested
    assert (WHY in table.caption) is not tested
    assert [len(row) for row in table.rows] == [len(table.head)] * 2 + [5]
    assert [piece.value for piece in table.rows[0][4]] == [0.1, None, 0.0, None, 0.2, None]
