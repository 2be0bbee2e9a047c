"""`orchestrator compare`: jobs side by side, in a table and in curves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.export import Force
from orchestrator.cli.options import Json, Storage, check_target
from orchestrator.cli.output import emit, emit_json, tell
from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.cli.comparison import Entry, Mode

Jobs = Annotated[
    list[str],
    typer.Argument(metavar="JOB...", help="Names of jobs; a sweep's stands for its trials.", show_default=False),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="What the best is decided by, a name in metrics.jsonl. [default: eval/loss, else loss]",
        show_default=False,
    ),
]
BestIs = Annotated[
    Literal["min", "max"] | None,
    typer.Option(
        "--mode", help="Whether small or large values are good. [default: min for a loss]", show_default=False
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw the curves: .png, or .html with the table.", show_default=False),
]
Over = Annotated[Literal["samples", "steps", "time"], typer.Option("--over", help="What curves are drawn over.")]


def compare(
    jobs: Jobs,
    metric: Metric = None,
    mode: BestIs = None,
    plot: Plot = None,
    over: Over = "samples",
    force: Force = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Print jobs side by side.

    In what their specs differ, how far each came, its cost, its last evaluation and its best value of a metric. The
    name of a sweep stands for all of its trials.
    """
    from orchestrator.cli.comparison import as_json as comparison_as_json
    from orchestrator.cli.comparison import chosen_metric, completed, entries_of, lines_of
    from orchestrator.launch.control import reconcile
    from orchestrator.launch.script_series import ScriptMetrics
    from orchestrator.launch.store import JobStore, resolve_storage

    if plot is not None:
        _check_plot(plot, force)
    store, now_s = JobStore(resolve_storage(storage, None, os.environ)), time.time()
    runs = [store.get(name) for name in dict.fromkeys(jobs)]
    for run in runs:
        reconcile(run)
    of_scripts = ScriptMetrics()
    entries = [entry for run in runs for entry in entries_of(run, now_s, of_scripts)]
    metric, mode = chosen_metric(entries, metric, mode)
    entries = completed(entries, metric, of_scripts)
    for failure in of_scripts.failures:
        tell(f"what scripts have logged is not shown: {failure}")
    if not any(metric in entry.series for entry in entries):
        known = sorted({name for entry in entries for name in entry.series})
        tell(f"no job has logged {metric}" + (f"; there are {', '.join(known)}." if known else " or anything else."))
    if as_json:
        emit_json(comparison_as_json(entries, metric, mode, now_s))
    else:
        emit("\n".join(lines_of(entries, metric, mode, now_s)))
    if plot is not None:
        _draw(plot, entries, metric, mode, over, now_s)


def _check_plot(file: Path, force: bool) -> None:
    if file.suffix.lower() not in (".png", ".html"):
        raise UsageError(f"--plot: {file} must end in .png or .html.")
    check_target("--plot", file, force)


def _draw(
    file: Path,
    entries: Sequence[Entry],
    metric: str,
    mode: Mode,
    over: Literal["samples", "steps", "time"],
    now_s: float,
) -> None:
    from orchestrator.cli.page.comparison_page import comparison_charts, comparison_page, heading
    from orchestrator.cli.page.drawing import write_png

    charts = comparison_charts(entries, metric, over)
    if not charts:
        tell(f"--plot: nothing is logged that could be drawn over {over}; {file} is not written.")
        return
    if file.suffix.lower() == ".png":
        write_png(file, heading(entries), charts)
    else:
        write_atomically(file, comparison_page(entries, charts, metric, mode, now_s))
    tell(f"curves in {file}")
