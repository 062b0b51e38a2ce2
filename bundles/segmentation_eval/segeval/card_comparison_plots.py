"""Plots of a comparison: Dice of strategies, what synthetic pairs add, few real scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from common.metrics.values import Value, not_computed
from segeval.card_drawing import (
    INK,
    SERIES,
    Plot,
    add_legend,
    beside,
    draw_interval,
    is_part,
    known_numbers,
    name_rows,
    new_figure,
    plotted,
    style,
)
from segeval.card_values import brief, dig, is_reason

OVERALL = "mean"


def arm_name(arm: Mapping[str, Any]) -> str:
    """Return strategy and synthetic set of an arm."""
    return " · ".join(str(arm[key]) for key in ("strategy", "synthetic") if arm[key] is not None)


def dice(compare: Any) -> Plot | str:
    """Plot Dice per label of all strategies.

    Args:
        compare: summary, or a reason.
    """
    arms = [arm for arm in dig(compare, "arms") if "steps" in arm] if is_part(compare) else []
    if not arms:
        return compare if is_reason(compare) else not_computed("no strategy was tested")
    networks = list(dict.fromkeys(arm["network"] for arm in arms))
    rows = list(dict.fromkeys(arm_name(arm) for arm in arms))
    regions = [OVERALL, *arms[0]["regions"]]
    height = 1.3 + 0.21 * len(rows) * max(1, 0.7 * len(networks))
    with style():
        figure, panels = new_figure(height, len(regions), sharey=True)
        for axes, region in zip(panels, regions, strict=True):
            for arm in arms:
                number = networks.index(arm["network"])
                place = rows.index(arm_name(arm)) + beside(number, len(networks))
                found = arm["mean"] if region == OVERALL else arm["regions"][region]
                draw_interval(axes, place, found["dice"], *SERIES[number % len(SERIES)])
            axes.set_title("mean of labels" if region == OVERALL else region.replace("_", " "))
            axes.set_xlabel("Dice")
            axes.locator_params(axis="x", nbins=3)
        name_rows(panels[0], rows)
        add_legend(figure, [(name, *SERIES[n % len(SERIES)]) for n, name in enumerate(networks)])
        alt = "; ".join(
            f"{arm['network']} {arm_name(arm)} mean Dice {brief(arm['mean']['dice']['mean'])}"
            for arm in arms
        )
        caption = "Dice on test scans by strategy, with 95 % intervals over test persons"
        return plotted(figure, caption, f"{caption}: {alt}.")


def gained(compare: Any) -> Plot | str:
    """Plot what synthetic pairs add to real ones, as intervals of differences.

    Args:
        compare: summary, or a reason.
    """
    gains = dig(compare, "gains")
    known = [g for g in gains if not isinstance(g["mean"], str)] if isinstance(gains, list) else []
    if not known:
        return compare if is_reason(compare) else not_computed("no gain is known")
    names = [f"{g['network']} · {g['strategy']} − {g['against']} · {g['synthetic']}" for g in known]
    networks = list(dict.fromkeys(gain["network"] for gain in known))
    with style():
        figure, (axes,) = new_figure(0.9 + 0.24 * len(known))
        axes.axvline(0, color=INK, lw=1)
        for place, gain in enumerate(known):
            number = networks.index(gain["network"])
            draw_interval(axes, place, gain, *SERIES[number % len(SERIES)])
        name_rows(axes, names)
        axes.set_xlabel("difference in Dice, mean over labels (right of 0: the pairs help)")
        caption = "Gain over real scans alone, with 95 % intervals over test persons"
        alt = "; ".join(f"{name} {_span(gain)}" for name, gain in zip(names, known, strict=True))
        return plotted(figure, caption, f"{caption}: {alt}.")


def _span(found: Mapping[str, Value]) -> str:
    mean, low, high = (brief(found[key], signed=True) for key in ("mean", "low", "high"))
    return mean if is_reason(low) else f"{mean} [{low}, {high}]"


def low_data(compare: Any) -> Plot | str:
    """Plot Dice over the number of real scans trained on.

    Args:
        compare: summary, or a reason.
    """
    curves = dig(compare, "low_data")
    if not isinstance(curves, list) or not curves:
        why = "no strategy low-N-... was run (few real persons)"
        return compare if is_reason(compare) else not_computed(why)
    networks = list(dict.fromkeys(curve["network"] for curve in curves))
    kinds = list(dict.fromkeys(_curve_name(curve) for curve in curves))
    with style():
        figure, panels = new_figure(3.0, len(networks), sharey=True)
        for curve in curves:
            axes = panels[networks.index(curve["network"])]
            number = kinds.index(_curve_name(curve))
            _curve(axes, curve["points"], number, len(kinds))
        for axes, network in zip(panels, networks, strict=True):
            axes.set_title(network)
            axes.set_xticks(sorted({p["real_pairs"] for c in curves for p in c["points"]}))
            axes.set_xlabel("real scans in training (number)")
        panels[0].set_ylabel("Dice, mean over labels")
        add_legend(figure, [(name, *SERIES[n % len(SERIES)]) for n, name in enumerate(kinds)])
        caption = "Few real scans: Dice by their number, with 95 % intervals over test persons"
        return plotted(figure, caption, f"{caption}: {_points(curves)}.")


def _curve_name(curve: Mapping[str, Any]) -> str:
    made = f" ({curve['synthetic']})" if curve["synthetic"] is not None else ""
    return f"{curve['series']}{made}"


def _curve(axes: Axes, points: Sequence[Mapping[str, Any]], number: int, count: int) -> None:
    colour, mark = SERIES[number % len(SERIES)]
    shift = 0.25 * (number - (count - 1) / 2)  # intervals must not hide each other
    known = [point for point in points if not isinstance(point["mean"], str)]
    places = [point["real_pairs"] + shift for point in known]
    axes.plot(places, [point["mean"] for point in known], mark + "-", color=colour, ms=5, lw=1.5)
    for place, point in zip(places, known, strict=True):
        ends = known_numbers(point["low"], point["high"])
        if ends:
            axes.plot([place, place], ends, color=colour, lw=1)


def _points(curves: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(
        f"{curve['network']} {_curve_name(curve)}: "
        + ", ".join(f"{p['real_pairs']} scans {brief(p['mean'])}" for p in curve["points"])
        for curve in curves
    )
