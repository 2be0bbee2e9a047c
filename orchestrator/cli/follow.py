"""What is new in a run directory, as values. Reads files only: it follows a job the same way wherever the job runs."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.cli.notices import Notice, notice_of
from orchestrator.cli.tail import Tail
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory

RATE_WINDOW = 20
"""Number of logged steps whose median rate predicts the time left."""
EVALUATION_PREFIX = "eval/"
ENDS = frozenset({"diverged", *TERMINAL_PHASES})
"""Events of a trial that has ended while others of its job go on."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long a training is over all its phases, as its first rank announced it."""

    total_steps: int | None = None
    """Optimizer steps; None where only samples count, or before the announcement."""
    total_samples: int | None = None
    """Samples; None before the announcement."""


@dataclass(frozen=True, slots=True)
class PhaseChange:
    """The job entered a phase that it will leave again."""

    phase: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest logged step."""

    metrics: Mapping[str, Any]
    length: Length
    left_s: float | None = None
    """Predicted seconds to the end; None where the rate or the length is not known yet."""
    num_trials: int = 0
    """Trials of a sweep that go on, of which this is the slowest; 0 without a sweep."""

    @property
    def share(self) -> float:
        """How much of the samples is done, or of the steps; 0 where the length is not known yet."""
        if self.length.total_samples:
            return float(self.metrics.get("samples", 0) / self.length.total_samples)
        return float(self.metrics.get("step", 0) / self.length.total_steps) if self.length.total_steps else 0.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of the evaluation data after a step."""

    step: int
    metrics: Mapping[str, Any]
    trial: int | None = None
    """Of a sweep."""


Update = PhaseChange | Progress | Evaluation | Notice


def evaluation_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The ``eval/`` metrics of one line."""
    return {key: value for key, value in metrics.items() if key.startswith(EVALUATION_PREFIX)}


def parsed(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The JSON objects of some lines; what a crash left half written is passed over."""
    objects = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            objects.append(value)
    return objects


def last_evaluation(run: RunDirectory) -> dict[str, Any]:
    """The newest ``eval/`` metrics; empty where nothing was evaluated yet."""
    newest, marker = b"", f'"{EVALUATION_PREFIX}'.encode()
    if run.metrics_file.exists():
        with run.metrics_file.open("rb") as stream:
            # Searched as bytes: long jobs have many lines, few of which hold an evaluation.
            for line in stream:
                newest = line if marker in line and line.endswith(b"\n") else newest
    return evaluation_of(next(iter(parsed([newest.decode()])), {}))


def length_of(event: Mapping[str, Any]) -> Length | None:
    """The length that an event announces; None for events that announce none."""
    if event["event"] not in ("started", "resumed", "phase"):
        return None
    return Length(event["total_steps"], event["total_samples"])


def time_left_s(lines: Iterable[Mapping[str, Any]], length: Length) -> float | None:
    """Seconds to the end at the median rate of the given metric lines; None without a rate or a length."""
    from statistics import median

    steps = [line for line in lines if line.get("samples_per_s")]
    if not steps:
        return None
    rate, last = median(line["samples_per_s"] for line in steps), steps[-1]
    if length.total_samples is None:
        if length.total_steps is None:
            return None
        # The batch changes, and with it the time of a step; the newest steps tell most.
        return float(max(0, length.total_steps - last["step"]) * median(line["step_s"] for line in steps))
    # Not by steps: those of another phase may be larger or smaller.
    return float(max(0, length.total_samples - last["samples"]) / rate)


def slowest(trials: Iterable[Progress]) -> Progress | None:
    """Of the trials of a sweep, the one with the least share done; None where there is none."""
    return min(trials, key=lambda progress: (progress.share, progress.metrics["step"]), default=None)


class Follower:
    """Turns the growth of ``state.json``, ``events.jsonl`` and ``metrics.jsonl`` into updates.

    Of a sweep, the metrics are those of its trials, and so are the events that warn.

    A job that is continued is followed with ``skip_existing``: what its earlier attempts wrote is not told again.
    """

    def __init__(self, run: RunDirectory, *, skip_existing: bool = False) -> None:
        self.run = run
        self.state: dict[str, Any] = {}
        trials = run.trials
        self._feeds = [_Feed(directory, skip_existing=skip_existing) for directory in trials or [run]]
        self._job_events = Tail(run.events_file, skip_existing=skip_existing) if trials else None
        self._phase: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the last poll saw a phase that the job never leaves."""
        return self.state.get("phase") in TERMINAL_PHASES

    def poll(self) -> list[Update]:
        """Everything new, in the order in which it is to be told.

        The state is read first: when it says that the job has ended, nothing is left unread.
        """
        self.state = self.run.read_state()
        updates = self._phase_updates()
        if self._job_events is None:
            (feed,) = self._feeds
            progress = feed.progress if feed.look() else None
            return [*updates, *feed.notices, *feed.evaluations, *([progress] if progress else [])]
        updates += [notice for notice in map(notice_of, parsed(self._job_events.lines())) if notice]
        return updates + self._trial_updates()

    def _phase_updates(self) -> list[Update]:
        phase = self.state.get("phase")
        if phase is None or phase == self._phase:
            return []
        self._phase = phase
        return [] if self.is_finished else [PhaseChange(phase)]

    def _trial_updates(self) -> list[Update]:
        updates: list[Update] = []
        has_moved = False
        for number, feed in enumerate(self._feeds):
            has_moved = feed.look() or has_moved
            warnings = (notice for notice in feed.notices if notice.level != "info")
            updates += [replace(notice, text=f"trial {number}: {notice.text}") for notice in warnings]
            updates += [replace(evaluation, trial=number) for evaluation in feed.evaluations]
        going = [feed.progress for feed in self._feeds if feed.progress and not feed.has_ended]
        if has_moved and (progress := slowest(going)):
            num_trials = len(going) if "concurrent" in self.state else len(self._feeds)
            updates.append(replace(progress, num_trials=num_trials))
        return updates


class _Feed:
    """The metrics and events of one training, as they are appended to its run directory."""

    def __init__(self, directory: RunDirectory, *, skip_existing: bool) -> None:
        self._events = Tail(directory.events_file, skip_existing=skip_existing)
        self._metrics = Tail(directory.metrics_file, skip_existing=skip_existing)
        self._recent: deque[Mapping[str, Any]] = deque(maxlen=RATE_WINDOW)
        self._length = Length()
        self.notices: list[Notice] = []
        """Of the last look."""
        self.evaluations: list[Evaluation] = []
        """Of the last look."""
        self.progress: Progress | None = None
        """The newest step; None before the first."""
        self.has_ended = False
        """Of a trial: whether it has ended while others of its job went on."""

    def look(self) -> bool:
        """Read what is new; whether steps were."""
        events, lines = parsed(self._events.lines()), parsed(self._metrics.lines())
        for event in events:
            self._length = length_of(event) or self._length
            self.has_ended = event["event"] in ENDS or (self.has_ended and length_of(event) is None)
        self.notices = [notice for notice in map(notice_of, events) if notice]
        evaluations = ((line["step"], evaluation_of(line)) for line in lines)
        self.evaluations = [Evaluation(step, metrics) for step, metrics in evaluations if metrics]
        if lines:
            self._recent.extend(lines)
            self.progress = Progress(lines[-1], self._length, time_left_s(self._recent, self._length))
        return bool(lines)
