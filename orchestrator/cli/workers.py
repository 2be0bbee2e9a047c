"""How fast the workers of a job are: a table of their recent steps, and which of them was slow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.cli.figures import counted, figure
from orchestrator.cli.output import aligned
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.core.stragglers import StragglerDetector
from orchestrator.core.worker_times import StepTimes, read_recent

MAX_STEPS = 1000
"""Newest steps that a table is about."""
MAX_ROWS = 16
"""Workers that a person is shown, the slowest ones."""

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """One worker over the newest steps of the newest attempt."""

    worker: int
    node: str | None
    """None where the attempt does not tell."""
    median_s: float | None
    """Seconds of its own computing in a step; None where no step's time is known."""
    p95_s: float | None
    """The seconds that 95 % of these steps do not exceed."""
    ratio: float | None
    """How many times longer than the others it takes now; None where no step's time is known."""
    steps: int
    """Steps whose time is known."""
    slow_since_step: int | None
    """First step of the slow stretch that goes on; None where the worker is not named as slow."""


def worker_rows(run: RunDirectory) -> list[WorkerRow]:
    """All workers by number; empty where no times are recorded (yet)."""
    start, *events = _newest_attempt(run) or [{}]
    recent = _recent(run, start)
    if not recent:
        return []
    from statistics import median

    detector, num_workers = _replayed(recent), len(recent[-1].seconds)
    nodes = start.get("nodes") or []
    slow = {worker: event["since_step"] for worker, event in _going_on(events).items()}
    rows = []
    for worker in range(num_workers):
        seconds = sorted(value for times in recent if (value := times.seconds[worker]) is not None)
        rows.append(
            WorkerRow(
                worker=worker,
                node=nodes[worker] if len(nodes) == num_workers else None,
                median_s=median(seconds) if seconds else None,
                p95_s=seconds[(19 * len(seconds) - 1) // 20] if seconds else None,
                ratio=detector.ratios[worker] if seconds and detector.ratios else None,
                steps=len(seconds),
                slow_since_step=slow.get(worker),
            )
        )
    return rows


def rows_as_json(rows: Iterable[WorkerRow]) -> list[dict[str, Any]]:
    """The rows under the names of their fields."""
    return [asdict(row) for row in rows]


def table(rows: Sequence[WorkerRow]) -> list[str]:
    """Lines for a person: the slowest workers first where there are too many for all of them."""
    shown = rows if len(rows) <= MAX_ROWS else sorted(rows, key=lambda row: -(row.ratio or 0.0))[:MAX_ROWS]
    header = ("WORKER", "NODE", "MEDIAN", "P95", "RATIO", "STEPS", "SLOW SINCE")
    lines = aligned([header, *map(_cells, shown)])
    if len(shown) < len(rows):
        lines.append(f"and {len(rows) - len(shown)} faster workers")
    return lines


def slowest_worker(run: RunDirectory) -> str | None:
    """The worker that cost the newest attempt most: `rank 3 on node-b, 1.8x the median over 340 steps`.

    None where no worker was named as slow.
    """
    start, *events = _newest_attempt(run) or [{}]
    stretches = [event for event in events if event["event"] == "straggler_over"]
    if going_on := _going_on(events):
        stretches += _extended(going_on, _recent(run, start))
    if not stretches:
        return None
    by_worker: dict[int, list[Event]] = {}
    for event in stretches:
        by_worker.setdefault(event["worker"], []).append(event)
    worst = max(by_worker.values(), key=lambda events: sum((e["ratio"] - 1) * e["num_steps"] for e in events))
    num_steps = sum(event["num_steps"] for event in worst)
    ratio = sum(event["ratio"] * event["num_steps"] for event in worst) / num_steps
    others = "the other worker" if start.get("workers") == 2 else "the median"
    more = f", and {counted(len(by_worker) - 1, 'more worker')}" if len(by_worker) > 1 else ""
    place = f"rank {worst[0]['worker']} on {worst[0]['node']}"
    return f"{place}, {ratio:.1f}x {others} over {counted(num_steps, 'step')}{more}"


def _cells(row: WorkerRow) -> tuple[str, ...]:
    seconds = ("" if value is None else f"{figure(value)} s" for value in (row.median_s, row.p95_s))
    since = "" if row.slow_since_step is None else f"step {row.slow_since_step:,}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return (str(row.worker), row.node or "", *seconds, ratio, f"{row.steps:,}", since)


def _newest_attempt(run: RunDirectory) -> list[Event]:
    """The events of the attempt that trained last, from its first step on; empty before the first."""
    events: list[Event] = []
    # The trials of a sweep start each for itself; what they share is placed.
    starts = ("placed",) if run.trials else ("started", "resumed")
    for event in read_json_lines(run.events_file):
        if event["event"] in starts:
            events = [event]
        elif events:
            events.append(event)
    return events


def _recent(run: RunDirectory, start: Event) -> list[StepTimes]:
    """The newest steps of the attempt that began with this event."""
    return [times for times in read_recent(run.worker_times_file, MAX_STEPS) if times.step > start.get("step", 0)]


def _replayed(recent: Sequence[StepTimes]) -> StragglerDetector:
    detector = StragglerDetector(len(recent[-1].seconds))
    for times in recent:
        detector.update(times.step, times.seconds, times.elements)
    return detector


def _going_on(events: Iterable[Event]) -> dict[int, Event]:
    """The event of each worker that was named as slow and has not been seen keeping up since."""
    found: dict[int, Event] = {}
    for event in events:
        if event["event"] == "straggler":
            found[event["worker"]] = event
        elif event["event"] == "straggler_over":
            found.pop(event["worker"], None)
    return found


def _extended(going_on: Mapping[int, Event], recent: Sequence[StepTimes]) -> list[Event]:
    """The stretches that had not ended, up to the last step that is known."""
    if not recent:
        return list(going_on.values())
    ratios = {seen.worker: seen.ratio for seen in _replayed(recent).slow}
    last_step = recent[-1].step
    return [
        {**event, "ratio": ratios.get(worker, event["ratio"]), "num_steps": last_step - event["since_step"] + 1}
        for worker, event in going_on.items()
    ]
