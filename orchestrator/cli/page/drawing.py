"""Draws charts: as SVG whose colors follow the page's theme, and all together as a PNG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from orchestrator.cli.figures import figure as shown
from orchestrator.cli.page.charts import Bars, Chart, Curves, Heat, Line, Panel, anchor

PALETTE = ("#0a63c9", "#c4500f", "#0d7d4d", "#a3217e", "#6a4fc3", "#8a6a00", "#00798c", "#b3203f")
"""Of lines, told apart by the color-blind too; all have a contrast of at least 4.5 on white."""
INK, MUTED, GRID = "#1f2430", "#5b6270", "#d6dae1"
SLOW = PALETTE[1]
WIDTH_IN = 8.0
PANEL_HEIGHT_IN = 2.7
ROW_HEIGHT_IN = 0.26
MAX_LEGEND = 12
"""Lines that a legend names."""
PNG_COLUMNS = 2
MANY_DECADES = 1000.0
"""Largest over smallest value from which on a logarithmic axis has only powers of ten."""
DASHES = {"phase begins": "--", "resumed": ":"}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and takes the page's color
    "text.parse_math": False,  # names may have a dollar sign
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "font.size": 10.0,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
_ROLES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {color: f"c{number}" for number, color in enumerate(PALETTE)}
_NOT_NEEDED = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
_REFERENCE = re.compile(r'\b(id="|url\(#|href="#)')
_COLOR = re.compile("|".join(_ROLES))


def themes() -> dict[str, str]:
    """The color of each role of the SVGs on light ground, by the name of its CSS variable."""
    return {name: color for color, name in _ROLES.items()}


def svg_of(chart: Chart) -> str:
    """A chart as an ``<svg>`` for the inside of a page: colors are CSS variables, and it tells its content in words."""
    name = anchor(chart)
    with _settings(name):
        figure = Figure(figsize=(WIDTH_IN, _height_in(chart)), layout="constrained")
        _draw(chart, figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = _NOT_NEEDED.sub("", buffer.getvalue())
    _, _, drawn = drawn.partition("<svg ")
    head, _, body = drawn.partition(">")
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None  # matplotlib writes one
    body = _REFERENCE.sub(rf"\g<1>{name}-", body)
    body = _COLOR.sub(lambda found: f"var(--{_ROLES[found[0]]})", body)
    described = (
        f'<title id="{name}-title">{escape(chart.title)}</title><desc id="{name}-text">{escape(chart.text)}</desc>'
    )
    labels = f'role="img" aria-labelledby="{name}-title" aria-describedby="{name}-text"'
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"<svg {space} {view[0]} {labels}>{described}{body.rstrip()}"


def write_png(file: Path, heading: str, charts: Sequence[Chart]) -> None:
    """All charts on one picture, two in a row."""
    rows = [charts[start : start + PNG_COLUMNS] for start in range(0, len(charts), PNG_COLUMNS)]
    heights = [max(map(_height_in, row)) + 0.5 for row in rows] or [1.0]
    with _settings("png"):
        figure = Figure(figsize=(PNG_COLUMNS * WIDTH_IN, sum(heights) + 0.5), layout="constrained")
        figure.suptitle(heading, fontsize=14)
        if charts:
            places = figure.subfigures(len(rows), PNG_COLUMNS, squeeze=False, height_ratios=heights)
            for chart, place in zip(charts, places.flat, strict=False):
                place.suptitle(chart.title, fontsize=11)
                _draw(chart, place)
        figure.savefig(file, format="png", dpi=100, facecolor="white")


@contextmanager
def _settings(salt: str) -> Iterator[None]:
    with warnings.catch_warnings(), matplotlib.rc_context({**SETTINGS, "svg.hashsalt": salt}):
        warnings.filterwarnings("ignore", "Glyph")  # a script that matplotlib's font lacks is still text in the SVG
        yield


def _height_in(chart: Chart) -> float:
    match chart:
        case Curves():
            return 0.3 + PANEL_HEIGHT_IN * (1.0 if len(chart.panels) == 1 else 0.75 * len(chart.panels))
        case Bars() | Heat():
            return 1.1 + ROW_HEIGHT_IN * len(chart.labels)


def _draw(chart: Chart, figure: FigureBase) -> None:
    match chart:
        case Curves():
            _draw_curves(chart, figure)
        case Bars():
            _draw_bars(chart, figure.subplots())
        case Heat():
            _draw_heat(chart, figure, figure.subplots())


def _draw_curves(chart: Curves, figure: FigureBase) -> None:
    all_axes = figure.subplots(len(chart.panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, axes in zip(chart.panels, all_axes, strict=True):
        for line in panel.lines:
            _draw_line(axes, line)
        for what, steps in chart.moments.items():
            for number, step in enumerate(steps):
                axes.axvline(step, color=MUTED, linewidth=1, linestyle=DASHES[what], label=what if not number else None)
        _scale(axes, panel)
        _add_legend(axes, panel)
    all_axes[-1].set_xlabel(chart.x_label)
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    all_axes[-1].xaxis.set_major_formatter(_numbers())


def _numbers() -> FuncFormatter:
    """Numbers as the commands print them: matplotlib's own are in the language of mathematics."""
    return FuncFormatter(lambda value, _: shown(value))


def _scale(axes: Axes, panel: Panel) -> None:
    axes.set_ylabel(panel.y_label + (" (log)" if panel.is_log else ""))
    if panel.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if panel.ratio < MANY_DECADES else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.from_zero:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_numbers())


def _draw_line(axes: Axes, line: Line) -> None:
    has_points, has_line = "o" in line.style, line.style != "o"
    axes.plot(
        line.steps,
        line.values,
        label=line.label,
        color=PALETTE[line.color % len(PALETTE)],
        # One point alone would be a line that nobody sees.
        marker="o" if has_points or len(line.steps) == 1 else "",
        markersize=4,
        linestyle=(line.style.removeprefix("o") or "-") if has_line else "",
        linewidth=1.3,
    )


def _add_legend(axes: Axes, panel: Panel) -> None:
    handles, labels = axes.get_legend_handles_labels()
    hidden = len(handles) - MAX_LEGEND
    if hidden > 0:
        handles[MAX_LEGEND:], labels[MAX_LEGEND:] = [Line2D([], [], linestyle="")], [f"and {hidden} more"]
    if len(handles) > 1 or len(panel.lines) > 1:
        axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def _draw_bars(chart: Bars, axes: Axes) -> None:
    places = np.arange(len(chart.labels))
    for is_slow, color, name in ((False, PALETTE[0], chart.bar_name), (True, SLOW, f"{chart.bar_name}, named as slow")):
        chosen = np.flatnonzero(np.array(chart.highlighted) == is_slow)
        if len(chosen):
            axes.barh(places[chosen], np.array(chart.lengths)[chosen], color=color, height=0.6, label=name)
    axes.plot(
        chart.marks,
        places,
        marker="|",
        markersize=11,
        markeredgewidth=2,
        linestyle="",
        color=INK,
        label=chart.mark_name,
    )
    axes.set_yticks(places, chart.labels)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0)
    axes.set_xlabel(chart.x_label)
    axes.xaxis.set_major_formatter(_numbers())
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def _draw_heat(chart: Heat, figure: FigureBase, axes: Axes) -> None:
    values = np.ma.masked_invalid(chart.values)
    least, greatest = float(values.min()), float(values.max())
    norm: Any = LogNorm(least, greatest) if greatest > least else None
    image = axes.imshow(values, aspect="auto", interpolation="nearest", cmap="viridis", norm=norm)
    bar = figure.colorbar(image, ax=axes, label=chart.value_label + (" (log)" if norm else ""))
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if norm else MaxNLocator(3))
    bar.ax.yaxis.set_major_formatter(_numbers())
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(np.arange(len(chart.labels)), chart.labels, fontsize=8)
    shown = np.unique(np.linspace(0, len(chart.steps) - 1, 6).astype(int))
    axes.set_xticks(shown, [f"{chart.steps[at]:,}" for at in shown])
    axes.grid(visible=False)
    axes.set_xlabel("step")
