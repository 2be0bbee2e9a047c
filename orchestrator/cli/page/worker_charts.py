"""Pictures of the workers: how long each computes in a step now, and over the whole training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from orchestrator.cli.figures import counted, figure
from orchestrator.cli.page.charts import Bars, Chart, Curves, Line, Panel
from orchestrator.cli.page.record import Record
from orchestrator.cli.workers import MAX_ROWS, WorkerRow
from orchestrator.launch.worker_series import WorkerSeries

MAX_LINES = 8
"""Workers with a line of their own; of more, those that took longest."""


def worker_charts(record: Record) -> Iterator[Chart]:
    """Both pictures, as far as times are recorded."""
    rows = [row for row in record.workers if row.median_s is not None]
    if rows:
        yield _bars(rows)
    if record.worker_series is not None:
        named = {int(event["worker"]) for event in record.straggler_events if event["event"] == "straggler"}
        yield _over_time(record.worker_series, sorted(named))


def _bars(rows: Sequence[WorkerRow]) -> Bars:
    shown = sorted(rows, key=lambda row: -(row.median_s or 0.0))[:MAX_ROWS]
    shown.sort(key=lambda row: row.worker)
    hidden = len(rows) - len(shown)
    captions = ["The newest steps of the newest attempt."] + [f"{hidden:,} faster workers are left out."] * bool(hidden)
    return Bars(
        title="Time of each rank in a step",
        x_label="seconds per step, without waiting for others",
        labels=[f"rank {row.worker}" + (f" on {row.node}" if row.node else "") for row in shown],
        lengths=[row.median_s or 0.0 for row in shown],
        marks=[row.p95_s or 0.0 for row in shown],
        highlighted=[row.slow_since_step is not None for row in shown],
        bar_name="median",
        mark_name="95th percentile",
        text=" ".join(map(_in_words, shown)),
        caption=" ".join(captions),
    )


def _in_words(row: WorkerRow) -> str:
    slow = "" if row.slow_since_step is None else f", slow since step {row.slow_since_step:,}"
    times = f"median {figure(row.median_s or 0.0)} s, 95th percentile {figure(row.p95_s or 0.0)} s"
    return f"rank {row.worker}: {times} over {counted(row.steps, 'step')}{slow}."


def _over_time(series: WorkerSeries, named: Sequence[int]) -> Curves:
    known = [worker for worker in range(len(series.seconds)) if np.isfinite(series.seconds[worker]).any()]
    means = {worker: float(np.nanmean(series.seconds[worker])) for worker in known}
    first = [worker for worker in named if worker in means]
    others = sorted((worker for worker in known if worker not in named), key=lambda worker: -means[worker])
    shown = sorted([*first, *others][:MAX_LINES])
    lines = [_line(series, worker, place, is_slow=worker in named) for place, worker in enumerate(shown)]
    hidden = len(known) - len(shown)
    captions = [
        f"Its own computing, without waiting for others; means over {counted(series.steps_per_stretch, 'step')}."
    ]
    captions += [f"{hidden:,} faster workers are left out."] * bool(hidden)
    return Curves(
        title="Time of each rank over the training",
        panels=[Panel(y_label="seconds per step", lines=lines, from_zero=True, may_be_log=False)],
        text=" ".join(f"rank {worker}: mean {figure(means[worker])} s." for worker in shown),
        caption=" ".join(captions),
    )


def _line(series: WorkerSeries, worker: int, place: int, *, is_slow: bool) -> Line:
    is_known = np.isfinite(series.seconds[worker])
    label = f"rank {worker}" + (" (named as slow)" if is_slow else "")
    return Line(
        label=label,
        steps=series.steps[is_known],
        values=series.seconds[worker, is_known],
        color=place,
    )
