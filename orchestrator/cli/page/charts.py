"""What a picture shows, as values: drawn for a page and for a PNG alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.cli.figures import counted, figure
from orchestrator.launch.series import Series, Steps, Values

LOG_FROM_RATIO = 50.0
"""Largest over smallest value from which on an axis is logarithmic."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Line:
    """Values over steps."""

    label: str
    """In the legend; empty is not in it, and a chart with one line has none."""
    steps: Steps
    values: Values
    """As many as steps, at least one."""
    color: int = 0
    """Place in the palette."""
    style: str = "-"
    """``-``, ``--`` or ``:``; ``o-`` has points too, ``o`` has only these."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Panel:
    """One pair of axes."""

    y_label: str
    """With its unit."""
    lines: Sequence[Line]
    may_be_log: bool = True
    from_zero: bool = False
    """Whether a linear axis begins at 0."""

    @property
    def ratio(self) -> float:
        """Largest over smallest value; 0 where not all are positive."""
        least = min(float(line.values.min()) for line in self.lines)
        greatest = max(float(line.values.max()) for line in self.lines)
        return greatest / least if least > 0 else 0.0

    @property
    def is_log(self) -> bool:
        """Whether its values are all positive and far enough apart."""
        return self.may_be_log and self.ratio > LOG_FROM_RATIO


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Curves:
    """Curves over steps, or what ``x_label`` says, in one panel or several above each other."""

    title: str
    panels: Sequence[Panel]
    text: str
    """The same in words, for who cannot see it."""
    moments: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Steps that are marked by vertical lines, by what happened there."""
    caption: str = ""
    x_label: str = "step"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Bars:
    """One bar for each of some things, with a mark beyond its end."""

    title: str
    x_label: str
    labels: Sequence[str]
    lengths: Sequence[float]
    marks: Sequence[float]
    """At or beyond the end of each bar."""
    highlighted: Sequence[bool]
    bar_name: str
    mark_name: str
    text: str
    caption: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Heat:
    """Positive values over steps for each of some things, as colors."""

    title: str
    labels: Sequence[str]
    """From the top."""
    steps: Steps
    """``[n]`` increasing."""
    values: Values
    """``[num_labels, n]``; NaN where there is none."""
    value_label: str
    text: str
    caption: str = ""


Chart = Curves | Bars | Heat


def anchor(chart: Chart) -> str:
    """The name of a chart in addresses within its page."""
    return re.sub(r"[^a-z0-9]+", "-", chart.title.lower()).strip("-")


def line_of(series: Series, label: str, *, color: int = 0, style: str = "-") -> Line:
    """A line of a metric."""
    return Line(label=label, steps=series.steps, values=series.values, color=color, style=style)


def in_words(name: str, series: Series) -> str:
    """A curve as a sentence: where it begins and ends, and its extremes."""
    if not len(series.values):
        return f"{name}: none of {counted(series.num_logged, 'logged value')} is finite."
    places = {"lowest": int(series.values.argmin()), "highest": int(series.values.argmax()), "last": -1}
    parts = [f"first {figure(series.values[0])} at step {series.steps[0]:,}"] if len(series.values) > 1 else []
    parts += [f"{word} {figure(series.values[at])} at step {series.steps[at]:,}" for word, at in places.items()]
    text = f"{name}: {', '.join(parts)}."
    if series.num_not_finite:
        text += f" {counted(series.num_not_finite, 'value')} not finite, from step {series.first_not_finite:,} on."
    return text
