"""What a page says in words: the summary, what is missing and why, and the tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.cli.figures import counted, duration, figure
from orchestrator.cli.follow import last_evaluation
from orchestrator.cli.page.record import Record, Training
from orchestrator.cli.result import NUM_LOG_LINES, log_that_explains, mlflow_fields, wall_time_s, workers_text
from orchestrator.cli.tail import last_lines
from orchestrator.cli.workers import slowest_worker
from orchestrator.core.run_directory import PRUNED, TERMINAL_PHASES

MAX_DECISIONS = 20
"""Changes of the batch that are listed, the newest."""
MAX_STRETCHES = 30
"""Stretches of slow workers that are listed, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under a header."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def summary(record: Record) -> dict[str, str]:
    """What is worth knowing at a glance, by label."""
    run, state = record.run, record.state
    training = record.trainings[0] if len(record.trainings) == 1 else None
    seconds = wall_time_s(state, record.read_at_s)
    fields = {
        "reason": state.get("reason"),
        "message": state.get("message"),
        "steps": None if state.get("step") is None else figure(state["step"]),
        "workers": workers_text(state),
        "trials": figure(len(record.trials)) if record.trials else None,
        **(_last_values(training) if training else {}),
        **({key: figure(value) for key, value in last_evaluation(run).items()} if training else {}),
        "wall time": None if seconds is None else duration(seconds),
        "cost": _cost(record),
        "slowest worker": slowest_worker(run),
        "run directory": run.root,
        "model": run.model_file if run.model_file.exists() else None,
        **mlflow_fields(run, state),
    }
    return {label: str(value) for label, value in fields.items() if value is not None and value != ""}


def note(record: Record) -> str:
    """Why there is less to see than somebody may expect; empty where there is nothing to say."""
    if record.has_script:
        return "This job runs a script: its steps and metrics are its own. What it logs itself is in its MLflow run."
    if not record.num_logged:
        more = "" if record.state["phase"] in TERMINAL_PHASES else " Make the page again when it has."
        return f"This job has logged no step yet.{more}"
    lost = [series for one in record.trainings if (series := one.series.get("loss")) and series.num_not_finite]
    if lost:
        num_lost = sum(series.num_not_finite for series in lost)
        return f"The loss was not finite in {counted(num_lost, 'logged step')}; pictures leave these out."
    return ""


def log_excerpt(record: Record) -> str:
    """Of a job that failed, the last lines of the log that explains it; else empty."""
    if record.state["phase"] != "failed":
        return ""
    log = log_that_explains(record.run, record.state)
    return "\n".join(last_lines(log, NUM_LOG_LINES)) if log else ""


def tables(record: Record) -> Iterator[Table]:
    """All tables that have rows, but for that of the trials."""
    if record.attempts:
        yield _attempts(record)
    for training in record.trainings:
        if training.decisions:
            yield _decisions(training)
    if record.straggler_events:
        yield _stragglers(record)


def _last_values(training: Training) -> dict[str, str]:
    shown = (("samples", "samples"), ("loss", "loss"), ("learning rate", "lr"), ("batch", "global_size"))
    known = {label: training.series[key].values for label, key in shown if key in training.series}
    return {label: figure(values[-1]) for label, values in known.items() if len(values)}


def _cost(record: Record) -> str | None:
    """Worker-hours of all attempts, and GPU-hours where workers have GPUs."""
    if not record.attempts:
        return None
    hours = sum(attempt.worker_hours(record.read_at_s) for attempt in record.attempts)
    gpus = hours * record.spec.resources.gpus_per_worker
    return f"{figure(hours)} worker-hours" + (f", {figure(gpus)} GPU-hours" if gpus else "")


def trials_table(record: Record) -> Table:
    """What each trial of a sweep sets, and what it has come to."""
    metrics = list(dict.fromkeys(name for row in record.trials for name in row.evaluation))
    header = ("trial", *record.trials[0].assignment, "phase", "step", "loss", *metrics)
    rows = [
        (
            str(row.trial),
            *(value if isinstance(value, str) else json.dumps(value) for value in row.assignment.values()),
            PRUNED if row.reason == PRUNED else row.phase,
            "" if row.step is None else f"{row.step:,}",
            "" if row.loss is None else figure(row.loss),
            *(figure(row.evaluation[name]) if name in row.evaluation else "" for name in metrics),
        )
        for row in record.trials
    ]
    return Table(title="Trials", header=header, rows=rows)


def _attempts(record: Record) -> Table:
    now_s = record.read_at_s
    rows = [
        (
            str(attempt.number) if attempt.trial is None else f"trial {attempt.trial}, {attempt.number}",
            datetime.fromtimestamp(attempt.placed_at, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            duration(attempt.seconds(now_s)),
            str(attempt.workers),
            figure(attempt.worker_hours(now_s)),
            "" if attempt.from_step is None else f"{attempt.from_step:,}",
            attempt.ending,
            attempt.message or "",
        )
        for attempt in record.attempts
    ]
    hours = sum(attempt.worker_hours(now_s) for attempt in record.attempts)
    header = ("attempt", "placed (UTC)", "length", "workers", "worker-hours", "from step", "ending", "message")
    caption = f"{counted(len(rows), 'attempt')}, {figure(hours)} worker-hours from being placed to the end of each."
    return Table(title="Attempts and cost", header=header, rows=rows, caption=caption)


def _decisions(training: Training) -> Table:
    newest = training.decisions[-MAX_DECISIONS:]
    rows = [(f"{one.step:,}", f"{one.batch:,}", figure(one.lr), one.reason) for one in reversed(newest)]
    changes = counted(len(training.decisions), "change")
    told = f"The newest {len(newest)} of {changes}" if len(newest) < len(training.decisions) else f"All {changes}"
    return Table(
        title=" ".join(filter(None, ("Decisions about the batch", training.label))),
        header=("step", "batch", "learning rate", "reason"),
        rows=rows,
        caption=f"{told}; {training.num_decisions:,} decisions in all, the others kept the batch.",
    )


def _stragglers(record: Record) -> Table:
    newest = record.straggler_events[-MAX_STRETCHES:]
    rows = [
        (
            f"rank {event['worker']}",
            str(event["node"]),
            "named as slow" if event["event"] == "straggler" else "keeps up again",
            f"{event['since_step']:,}",
            f"{event['ratio']:.2f}",
            f"{event['num_steps']:,}",
        )
        for event in newest
    ]
    hidden = len(record.straggler_events) - len(newest)
    return Table(
        title="Stragglers",
        header=("worker", "node", "what", "since step", "times the others", "steps"),
        rows=rows,
        caption=f"The newest {len(newest)}; {hidden:,} before them are in events.jsonl." if hidden else "",
    )
