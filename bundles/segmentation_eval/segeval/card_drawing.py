"""How the plots of a card are drawn: their style, and SVG of equal bytes for equal numbers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from common.metrics.values import Value, not_computed
from segeval.card_values import dig, is_reason

# Okabe and Ito 2008: told apart with any colour vision; marks differ as well.
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#F0E442"),
)
GREY, INK = "#8c8c8c", "#222222"
SERIES = tuple(zip((BLUE, RED, GREEN, PINK, ORANGE, SKY), "osD^vP", strict=True))
STYLE: Any = {
    "svg.hashsalt": "medpair",
    "text.parse_math": False,  # a name may hold $
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
WIDTH = 8.0  # inches


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        svg: the file.
        caption: what it shows.
        alt: its numbers in words, for those who cannot see it.
        width: in CSS pixels.
        height: in CSS pixels.
    """

    svg: bytes
    caption: str
    alt: str
    width: int
    height: int


def rendered(figure: Figure, form: str = "svg") -> bytes:
    """Return the file of a figure.

    Args:
        figure: drawn in `style`.
        form: "svg", or "png" for a look at it.
    """
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=form, metadata=METADATA if form == "svg" else None)
    data = file.getvalue()
    return data[data.index(b"<svg") :] if form == "svg" else data  # names no address of a DTD


@contextmanager
def style() -> Iterator[None]:
    """Draw in the card's style, whatever the user's is; signs that the font lacks are boxes."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def plotted(figure: Figure, caption: str, alt: str) -> Plot:
    """Return a figure as a plot of the page."""
    width, height = (round(inches * 96) for inches in figure.get_size_inches())
    return Plot(rendered(figure), caption, alt, width, height)


def new_figure(height: float, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels side by side.

    Args:
        height: in inches.
        columns: number of panels.
        options: of `Figure.subplots`.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    made = figure.subplots(1, columns, squeeze=False, **options)
    return figure, list(made[0])


def known_numbers(*values: Value) -> list[float] | None:
    """Return the values if all of them are numbers."""
    numbers = [float(v) for v in values if not isinstance(v, str)]
    return numbers if len(numbers) == len(values) else None


def draw_interval(
    axes: Axes, place: float, found: Mapping[str, Value], colour: str, mark: str
) -> None:
    """Draw a mean with its interval, as far as they are known."""
    ends = known_numbers(found["low"], found["high"])
    if ends:
        axes.plot(ends, [place, place], color=colour, lw=2, solid_capstyle="butt")
    if not isinstance(found["mean"], str):
        axes.plot([found["mean"]], [place], mark, color=colour, ms=5)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, ... of the vertical axis, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def beside(number: int, count: int) -> float:
    """Return how far one of several marks stands from the middle of its row."""
    return 0.0 if count == 1 else 0.4 * (number / (count - 1) - 0.5)


def log_ticks(axis: Axis) -> None:
    """Name 1, 2 and 5 of each decade of a logarithmic axis, as plain numbers."""
    axis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def add_legend(figure: Figure, entries: Sequence[tuple[str, str, str]]) -> None:
    """Name series (name, colour, mark) above the panels."""
    handles = [
        Line2D([], [], color=colour, marker=mark, lw=2, ms=5, label=name)
        for name, colour, mark in entries
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))


def is_part(found: Any) -> bool:
    """Return whether a report holds a part and no reason why it does not."""
    return isinstance(found, Mapping)


def why_not(part: Any, key: str, otherwise: str) -> str:
    """Return why a part of a report is not there, or another reason where it is."""
    found = dig(part, key)
    return found if is_reason(found) else not_computed(otherwise)
