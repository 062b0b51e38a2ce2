"""Plots of a judge, and all plots of a card together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from common.metrics.values import not_computed
from segeval.card_comparison_plots import dice, gained, low_data
from segeval.card_drawing import (
    BLUE,
    GREY,
    INK,
    SERIES,
    Plot,
    add_legend,
    is_part,
    log_ticks,
    name_rows,
    new_figure,
    plotted,
    style,
    why_not,
)
from segeval.card_values import brief, dig, is_reason, parts_at
from segeval.card_verdicts import EXTRACTORS, VIEWS


def fidelity(judge: Any, target: float) -> Plot | str:
    """Plot Frechet distances over their floors, per view.

    Args:
        judge: summary, or a reason.
        target: largest ratio wanted.
    """
    curves: dict[str, dict[str, float]] = {}
    for name, found in parts_at(judge, "fidelity").items():
        views = {view: dig(part, "fid", "ratio") for view, part in parts_at(found, "views").items()}
        views["mean"] = dig(found, "mean", "fid", "ratio")
        known = {v: float(x) for v, x in views.items() if not isinstance(x, str) and x > 0}
        if known:
            curves[name] = known
    if not curves:
        return why_not(judge, "fidelity", "no Frechet distance over a floor is known")
    shown = list(dict.fromkeys(view for known in curves.values() for view in known))
    with style():
        figure, (axes,) = new_figure(2.6)
        for number, (name, known) in enumerate(curves.items()):
            colour, mark = SERIES[number % len(SERIES)]
            places = [shown.index(view) + 0.12 * (number - (len(curves) - 1) / 2) for view in known]
            label = EXTRACTORS.get(name, name)
            axes.plot(places, list(known.values()), mark, color=colour, ms=8, label=label)
        axes.axhline(1, color=INK, lw=1, label="floor: real scans of other persons")
        axes.axhline(target, color=INK, lw=1, ls="--", label=f"target: at most {target:g}")
        axes.set_yscale("log")
        log_ticks(axes.yaxis)
        axes.set_ylabel("FID over its floor (log)")
        axes.set_xticks(range(len(shown)), [VIEWS.get(view, view) for view in shown])
        axes.set_xlim(-0.5, len(shown) - 0.5)
        figure.legend(loc="outside right upper")
        caption = "Fréchet distance to real scans over the floor that other real scans reach"
        alt = "; ".join(
            f"{EXTRACTORS.get(name, name)} "
            + ", ".join(f"{v} {brief(x)}" for v, x in known.items())
            for name, views in curves.items()
        )
        return plotted(figure, caption, f"{caption}: {alt}.")


def label_ranges(found: Any, kind: str, unit: str) -> Plot | str:
    """Plot ranges of a measure per label, of generated pairs beside real scans.

    Args:
        found: from `segeval.card_ranges.ranges`, or a reason.
        kind: "intensity" or "volume_ml".
        unit: name and unit of the measure, for the axis.
    """
    labels = parts_at(found, kind)
    sides = (("real", "real scans", GREY, "|"), ("synthetic", "generated pairs", BLUE, "o"))
    known = {n: part for n, part in labels.items() if any(is_part(part[s[0]]) for s in sides)}
    if not known:
        return found if is_reason(found) else not_computed("no pair holds a label")
    with style():
        figure, (axes,) = new_figure(1.1 + 0.34 * len(known))
        for place, part in enumerate(known.values()):
            for (side, _, colour, mark), shift in zip(sides, (-0.15, 0.15), strict=True):
                if is_part(part[side]):
                    _range(axes, place + shift, part[side], colour, mark)
        name_rows(axes, [name.replace("_", " ") for name in known])
        if kind == "volume_ml":
            _volumes(axes, known.values())
        axes.set_xlabel(unit)
        add_legend(figure, [side[1:] for side in sides])
        caption = (
            f"{unit[:1].upper() + unit[1:]} per label: thick line 5th to 95th percentile, thin "
            "line whole range, mark median"
        )
        alt = "; ".join(f"{name} {_sides(part)}" for name, part in known.items())
        return plotted(figure, caption, f"{caption}: {alt}.")


def _range(axes: Axes, place: float, part: Mapping[str, float], colour: str, mark: str) -> None:
    axes.plot([part["low"], part["high"]], [place] * 2, color=colour, lw=1)
    axes.plot([part["p5"], part["p95"]], [place] * 2, color=colour, lw=5, solid_capstyle="butt")
    edge = INK if mark == "|" else "white"
    axes.plot([part["median"]], [place], mark, color=INK, mec=edge, ms=8 if mark == "|" else 6)


def _volumes(axes: Axes, parts: Any) -> None:
    """Labels differ by orders of magnitude; absent ones have volume 0."""
    ends = [part[side] for part in parts for side in ("real", "synthetic") if is_part(part[side])]
    positive = [end[key] for end in ends for key in ("low", "p5", "median") if end[key] > 0]
    least = min(positive, default=1.0)
    if any(end["low"] <= 0 for end in ends):
        axes.set_xscale("symlog", linthresh=least)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_xscale("log")
        log_ticks(axes.xaxis)


def _sides(part: Mapping[str, Any]) -> str:
    said = [
        f"{side} {brief(part[side]['low'])} to {brief(part[side]['high'])}"
        for side in ("real", "synthetic")
        if is_part(part[side])
    ]
    return ", ".join(said)


def steps(judge: Any, axis: str = "D") -> Plot | str:
    """Plot mean steps from slice to slice, of generated pairs beside real scans.

    Args:
        judge: summary, or a reason.
        axis: "D", "H" or "W".
    """
    sides = (("real", "real scans", GREY, "-"), ("synthetic", "generated pairs", BLUE, "--"))
    curves = {side: dig(judge, "consistency", "profiles", side, axis) for side, *_ in sides}
    reasons = [found for found in curves.values() if not is_part(found)]
    if reasons:
        return reasons[0] if is_reason(reasons[0]) else not_computed("no step profiles")
    if any(all(isinstance(v, str) for v in found["steps"]) for found in curves.values()):
        return not_computed("no two slices of foreground follow each other")
    with style():
        figure, (axes,) = new_figure(2.5)
        alt = []
        for side, name, colour, line in sides:
            values = [np.nan if isinstance(v, str) else v for v in curves[side]["steps"]]
            places = np.arange(len(values)) + curves[side]["first"]
            axes.plot(places, values, line, color=colour, lw=2, label=name)
            alt.append(f"{name} on average {brief(float(np.nanmean(values)))}")
        axes.set_xlabel(f"slice along {axis} (number), with the slice before it")
        axes.set_ylabel("mean step of intensity\n(normalised unit)")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper center", ncols=2)
        caption = f"Step from slice to slice along {axis}, mean over foreground and volumes"
        return plotted(figure, caption, f"{caption}: {'; '.join(alt)}.")


def plots(content: Mapping[str, Any], fid_target: float) -> dict[str, Plot | str]:
    """Draw all plots of a card.

    Args:
        content: of ``card.json``.
        fid_target: largest ratio wanted.

    Returns:
        By name a plot, or why there is none.
    """
    compare, judge, spread = (content[key] for key in ("compare", "judge", "ranges"))
    made: dict[str, Callable[[], Plot | str]] = {
        "gain": lambda: gained(compare),
        "dice": lambda: dice(compare),
        "low_data": lambda: low_data(compare),
        "fidelity": lambda: fidelity(judge, fid_target),
        "intensity": lambda: label_ranges(
            spread, "intensity", "median intensity (normalised, 0 to 1)"
        ),
        "volume": lambda: label_ranges(spread, "volume_ml", "volume (ml, log)"),
        "steps": lambda: steps(judge),
    }
    return {name: draw() for name, draw in made.items()}
