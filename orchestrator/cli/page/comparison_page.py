"""Curves of several jobs in one picture, and the page that shows them below their table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal

import numpy as np

from orchestrator.cli.comparison import Entry, Mode, best_of, table
from orchestrator.cli.figures import figure
from orchestrator.cli.output import plain
from orchestrator.cli.page.charts import Curves, Line, Panel
from orchestrator.cli.page.drawing import PALETTE
from orchestrator.cli.page.html import chart_section, document, table_section
from orchestrator.cli.page.words import Table
from orchestrator.launch.series import Series, Steps

Over = Literal["samples", "steps", "time"]
STYLES = ("-", "--", ":")
X_LABELS = {"samples": "samples", "steps": "step", "time": "seconds since the first step"}


def comparison_charts(entries: Sequence[Entry], metric: str, over: Over) -> list[Curves]:
    """The loss, and the metric that entries are ranked by; each where somebody has logged it."""
    names = dict.fromkeys(("loss", metric))
    return [chart for name in names if (chart := _chart(entries, name, over)) is not None]


def heading(entries: Sequence[Entry]) -> str:
    """The names of the jobs, each once."""
    return ", ".join(dict.fromkeys(entry.name.partition("/")[0] for entry in entries))


def comparison_page(entries: Sequence[Entry], charts: Sequence[Curves], metric: str, mode: Mode, now_s: float) -> str:
    """The table and the pictures as one HTML file that needs no network."""
    header, *rows = table(entries, metric, mode, now_s)
    best = best_of(entries, metric, mode)
    caption = "" if best is None else f"Best: {best.name}."
    compared = Table(title="Side by side", header=header, rows=[[plain(cell) for cell in row] for row in rows])
    body = [f"<header><h1>{escape(heading(entries))}</h1>"]
    body += [f'<p class="note">{escape(caption)}</p></header>', "<main>", *table_section(compared)]
    for chart in charts:
        body += chart_section(chart)
    return document("Comparison", [*body, "</main>"])


def _chart(entries: Sequence[Entry], metric: str, over: Over) -> Curves | None:
    lines, texts = [], []
    for number, entry in enumerate(entries):
        series = entry.series.get(metric)
        places = None if series is None else _places(entry, series, over)
        if series is None or places is None or not len(series.values):
            continue
        # Colors begin again after the palette's last.
        style = STYLES[number // len(PALETTE) % len(STYLES)]
        lines.append(Line(label=entry.name, steps=places, values=series.values, color=number, style=style))
        texts.append(f"{entry.name}: last {figure(series.values[-1])} at step {series.steps[-1]:,}.")
    if not lines:
        return None
    panel = Panel(y_label=metric, lines=lines)
    return Curves(title=metric, panels=[panel], text=" ".join(texts), x_label=X_LABELS[over])


def _places(entry: Entry, series: Series, over: Over) -> Steps | None:
    """Where the points of a metric lie on the axis; None where the job has not logged what the axis counts."""
    if over == "steps":
        return series.steps
    ruler = entry.series.get(over)
    if ruler is None or not len(ruler.values):
        return None
    # Long series are thinned, each at steps of its own; what is counted grows steadily between them.
    values = np.interp(series.steps, ruler.steps, ruler.values)
    if over == "time":
        values = values - ruler.values[0]
    return np.rint(values).astype(np.int64)
