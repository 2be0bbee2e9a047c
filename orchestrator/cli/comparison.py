"""Jobs and trials side by side, as values: in what their specs differ, how far each came and at what cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.cli.figures import duration, figure
from orchestrator.cli.follow import EVALUATION_PREFIX
from orchestrator.cli.output import aligned, paint, phase_text
from orchestrator.cli.result import wall_time_s
from orchestrator.core.run_directory import PRUNED, RunDirectory, read_json_lines
from orchestrator.launch.attempts import attempts_of
from orchestrator.launch.continuation import leaves
from orchestrator.launch.script_series import ScriptMetrics
from orchestrator.launch.series import Series, read_series
from orchestrator.spec.job import ScriptJobSpec
from orchestrator.spec.load import load_resolved
from orchestrator.spec.problems import shown

Mode = Literal["min", "max"]
_SMALL_IS_GOOD = ("loss", "error", "perplexity")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Entry:
    """One job, or one trial of a sweep."""

    name: str
    """``job``, or ``job/trial``."""
    run: RunDirectory
    state: Mapping[str, Any]
    values: Mapping[str, Any]
    """The resolved spec without its name: values that are no mappings, by dotted path."""
    series: Mapping[str, Series]
    """Every metric; of a script those of its MLflow run."""
    has_script: bool
    """Then the series have their newest values only, until they are `completed`."""
    worker_hours: float | None
    """Of all attempts; None where the workers are those of other trials too, and before they are placed."""

    def best(self, metric: str, mode: Mode) -> tuple[float, int] | None:
        """The best value of a metric and its step; None where it has none."""
        series = self.series.get(metric)
        if series is None or not len(series.values):
            return None
        at = int(series.values.argmin() if mode == "min" else series.values.argmax())
        return float(series.values[at]), int(series.steps[at])

    def last(self, metric: str) -> float | None:
        """The newest value of a metric; None where it has none."""
        series = self.series.get(metric)
        return None if series is None or not len(series.values) else float(series.values[-1])


def entries_of(run: RunDirectory, now_s: float, of_scripts: ScriptMetrics) -> Iterator[Entry]:
    """A job, or the trials of a sweep in their order.

    Args:
        run: the job.
        now_s: seconds since 1970, to which what goes on is counted.
        of_scripts: reads what scripts have logged.
    """
    if not run.trials:
        yield _entry(run.name, run, now_s, of_scripts, has_workers=True)
    for trial in run.trials:
        is_apart = "concurrent" in run.read_state()
        yield _entry(f"{run.name}/{trial.name}", trial, now_s, of_scripts, has_workers=is_apart)


def _entry(name: str, run: RunDirectory, now_s: float, of_scripts: ScriptMetrics, *, has_workers: bool) -> Entry:
    spec, state = load_resolved(run.resolved_spec), run.read_state()
    has_script = isinstance(spec, ScriptJobSpec)
    series = of_scripts.newest(run, state) if has_script else read_series(run.metrics_file)
    signs = sorted(series["time"].values.tolist()) if "time" in series and not has_script else []
    attempts = attempts_of(read_json_lines(run.events_file), signs) if has_workers else []
    return Entry(
        name=name,
        run=run,
        state=state,
        values=dict(leaves("", spec.model_dump(mode="json", exclude={"name"}))),
        series=series,
        has_script=has_script,
        worker_hours=sum(attempt.worker_hours(now_s) for attempt in attempts) if attempts else None,
    )


def completed(entries: Sequence[Entry], metric: str, of_scripts: ScriptMetrics) -> list[Entry]:
    """The entries with all values of what is drawn and of what they are ranked by, those of scripts too."""
    names = dict.fromkeys(("loss", metric))
    return [
        replace(one, series=of_scripts.completed(one.run, one.state, one.series, names)) if one.has_script else one
        for one in entries
    ]


def differing(entries: Sequence[Entry]) -> list[str]:
    """Dotted paths in which the specs are not all alike, in the order of the spec."""
    paths = dict.fromkeys(path for entry in entries for path in entry.values)
    return [path for path in paths if any(_at(entry, path) != _at(entries[0], path) for entry in entries)]


def _at(entry: Entry, path: str) -> Any:
    """The value at a path, as text; empty where there is none."""
    if path not in entry.values:
        return ""
    value = entry.values[path]
    return value if isinstance(value, str) else shown(value)


def chosen_metric(entries: Sequence[Entry], metric: str | None, mode: Mode | None) -> tuple[str, Mode]:
    """What entries are ranked by, and whether small or large values of it are good."""
    if metric is None:
        metric = "eval/loss" if any("eval/loss" in entry.series for entry in entries) else "loss"
    if mode is None:
        mode = "min" if any(word in metric.lower() for word in _SMALL_IS_GOOD) else "max"
    return metric, mode


def best_of(entries: Sequence[Entry], metric: str, mode: Mode) -> Entry | None:
    """The entry with the best value of a metric; None where none has any."""
    found = [(best[0], entry) for entry in entries if (best := entry.best(metric, mode)) is not None]
    if not found:
        return None
    return (min if mode == "min" else max)(found, key=lambda pair: pair[0])[1]


def evaluations(entries: Sequence[Entry]) -> list[str]:
    """Every metric that some entry has evaluated."""
    return list(dict.fromkeys(key for entry in entries for key in entry.series if key.startswith(EVALUATION_PREFIX)))


def table(entries: Sequence[Entry], metric: str, mode: Mode, now_s: float) -> list[tuple[str, ...]]:
    """A header and a row for each entry."""
    paths, evaluated = differing(entries), evaluations(entries)
    header = (
        "JOB",
        *paths,
        "PHASE",
        "STEPS",
        "SAMPLES",
        "WALL TIME",
        "WORKER-HOURS",
        *evaluated,
        f"BEST {metric}",
        "AT",
    )
    return [header, *(_cells(entry, paths, evaluated, entry.best(metric, mode), now_s) for entry in entries)]


def _cells(
    entry: Entry, paths: Sequence[str], evaluated: Sequence[str], best: tuple[float, int] | None, now_s: float
) -> tuple[str, ...]:
    seconds, samples = wall_time_s(entry.state, now_s), entry.last("samples")
    last = [entry.last(name) for name in evaluated]
    return (
        entry.name,
        *(_at(entry, path) for path in paths),
        paint(PRUNED, "yellow") if entry.state.get("reason") == PRUNED else phase_text(entry.state["phase"]),
        "" if steps_of(entry) is None else figure(steps_of(entry) or 0),
        "" if samples is None else figure(samples),
        "" if seconds is None else duration(seconds),
        "" if entry.worker_hours is None else figure(entry.worker_hours),
        *("" if value is None else figure(value) for value in last),
        "" if best is None else figure(best[0]),
        "" if best is None else f"step {best[1]:,}",
    )


def steps_of(entry: Entry) -> int | None:
    """Optimizer steps that are on record, of a script as it numbers them; None before the first."""
    loss = entry.series.get("loss")
    return None if loss is None or not len(loss.steps) else int(loss.steps[-1])


def lines_of(entries: Sequence[Entry], metric: str, mode: Mode, now_s: float) -> list[str]:
    """The table for a person, and below it which entry is the best."""
    lines = aligned(table(entries, metric, mode, now_s))
    best = best_of(entries, metric, mode)
    if best is not None and len(entries) > 1:
        value, step = best.best(metric, mode) or (math.nan, 0)
        lines += ["", f"best: {best.name}, {metric} {figure(value)} at step {step:,}"]
    return lines


def as_json(entries: Sequence[Entry], metric: str, mode: Mode, now_s: float) -> dict[str, Any]:
    """The same for scripts; a value of a spec that an entry does not have is left out of its ``values``."""
    paths, best = differing(entries), best_of(entries, metric, mode)
    return {
        "metric": metric,
        "mode": mode,
        "best": None if best is None else best.name,
        "jobs": [_job(entry, paths, entry.best(metric, mode), evaluations(entries), now_s) for entry in entries],
    }


def _job(
    entry: Entry, paths: Sequence[str], best: tuple[float, int] | None, evaluated: Sequence[str], now_s: float
) -> dict[str, Any]:
    return {
        "name": entry.name,
        "run_directory": entry.run.root,
        "values": {path: entry.values[path] for path in paths if path in entry.values},
        "phase": entry.state["phase"],
        "reason": entry.state.get("reason"),
        "steps": steps_of(entry),
        "samples": entry.last("samples"),
        "wall_time_s": wall_time_s(entry.state, now_s),
        "worker_hours": entry.worker_hours,
        "evaluation": {name: entry.last(name) for name in evaluated},
        "best": None if best is None else {"value": best[0], "step": best[1]},
    }
