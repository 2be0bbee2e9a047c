"""The page itself: words, tables and pictures in one file that asks nothing of any other machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape

from orchestrator.cli.page.charts import Chart, anchor
from orchestrator.cli.page.drawing import svg_of, themes
from orchestrator.cli.page.record import Record
from orchestrator.cli.page.words import Table, log_excerpt, note, summary, tables, trials_table

DARK = {
    "ink": "#e6e8ec",
    "muted": "#a5acb8",
    "grid": "#3a404b",
    "c0": "#6db1ff",
    "c1": "#ff9d5c",
    "c2": "#5fd0a0",
    "c3": "#f08fd3",
    "c4": "#b9a6ff",
    "c5": "#e0c050",
    "c6": "#5cc9dc",
    "c7": "#ff8aa0",
}
"""The colors of the roles on dark ground."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load for the page: nothing from anywhere, whatever a name in it looks like."""
STYLE = """
body{margin:0 auto;max-width:60rem;padding:1rem 1.25rem 4rem;background:var(--ground);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}
h1{margin:.5rem 0}h2{margin:2.2rem 0 .5rem;font-size:1.2rem}
.phase{font-size:1rem;font-weight:600;border:2px solid currentColor;border-radius:1rem;padding:.1rem .7rem;
vertical-align:middle}
.succeeded{color:var(--c2)}.failed{color:var(--c7)}.stopped{color:var(--c1)}
.queued,.preparing,.placing,.running{color:var(--c0)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem}dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
figure{margin:0;overflow-x:auto}figure svg{display:block;width:100%;min-width:34rem;height:auto}
figcaption,.note{color:var(--muted)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--muted);padding-bottom:.3rem}
th,td{text-align:left;padding:.25rem .9rem .25rem 0;border-bottom:1px solid var(--grid);vertical-align:top}
pre{overflow-x:auto;border:1px solid var(--grid);padding:.7rem;font-size:.85rem}
nav a{color:var(--c0);margin-right:1rem}
"""


def page_of(record: Record, charts: Sequence[Chart]) -> str:
    """The whole page.

    Args:
        record: What it tells.
        charts: Its pictures, in their order; may be empty.
    """
    title = escape(record.run.name)
    phase = escape(str(record.state["phase"]))
    read_at = datetime.fromtimestamp(record.read_at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    header = [
        f'<header><h1>{title} <span class="phase {phase}">{phase}</span></h1>',
        f'<p class="note">As of {read_at}.</p></header>',
    ]
    return document(f"{title}: {phase}", [*header, "<main>", *_body(record, charts), "</main>"])


def document(title: str, body: Iterable[str]) -> str:
    """A page of its own.

    Args:
        title: as HTML.
        body: as HTML.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        # Without one, browsers ask the server of the page for an icon.
        '<link rel="icon" href="data:,">',
        f"<title>{title}</title>",
        f"<style>{_variables()}{STYLE}</style></head><body>",
        *body,
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _variables() -> str:
    light = {"ground": "#ffffff", **themes()}
    dark = {"ground": "#14171c", **DARK}
    in_the_dark = f"@media (prefers-color-scheme:dark){{:root{{{_declared(dark)}}}}}"
    return f":root{{color-scheme:light dark;{_declared(light)}}}\n{in_the_dark}"


def _declared(colors: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{color};" for name, color in colors.items())


def _body(record: Record, charts: Sequence[Chart]) -> Iterator[str]:
    yield "<dl>"
    for label, value in summary(record).items():
        yield f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"
    if charts:
        links = "".join(f'<a href="#{anchor(chart)}">{escape(chart.title)}</a>' for chart in charts)
        yield f'<nav aria-label="Pictures">{links}</nav>'
    if text := note(record):
        yield f'<p class="note">{escape(text)}</p>'
    if lines := log_excerpt(record):
        yield f"<h2>The last lines of the log</h2><pre>{escape(lines)}</pre>"
    if record.trials:
        yield from table_section(trials_table(record))
    for chart in charts:
        yield from chart_section(chart)
    for table in tables(record):
        yield from table_section(table)


def chart_section(chart: Chart) -> Iterator[str]:
    """A picture with its title."""
    yield f'<section id="{anchor(chart)}"><h2>{escape(chart.title)}</h2><figure>{svg_of(chart)}'
    caption = f"<figcaption>{escape(chart.caption)}</figcaption>" if chart.caption else ""
    yield f"{caption}</figure></section>"


def table_section(table: Table) -> Iterator[str]:
    """A table with its title."""
    yield f"<section><h2>{escape(table.title)}</h2>"
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    yield f'<div class="scroll"><table>{caption}<thead><tr>'
    yield "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header) + "</tr></thead><tbody>"
    for row in table.rows:
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div></section>"
