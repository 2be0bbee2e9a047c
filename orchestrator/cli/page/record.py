"""All that a page tells of one job, read once from its run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.cli.trials import TrialRow, trial_rows
from orchestrator.cli.workers import WorkerRow, worker_rows
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.launch.attempts import Attempt, attempts_of
from orchestrator.launch.series import Series, read_series
from orchestrator.launch.worker_series import WorkerSeries, read_worker_series
from orchestrator.spec.job import AnyJobSpec, ScriptJobSpec
from orchestrator.spec.load import load_resolved

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One change of the batch, decided by a controller."""

    step: int
    """Step whose gradient it was decided by."""
    batch: int
    """Samples of a step."""
    lr: float
    """Learning rate that the step took."""
    reason: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Training:
    """What one training logged: a job's, or that of one trial of a sweep."""

    label: str
    """Of its curves beside those of others; empty where it is the only one."""
    series: Mapping[str, Series]
    decisions: Sequence[Decision]
    """Changes of the batch only."""
    num_decisions: int
    """Those that left the batch as it was included."""
    starts: Mapping[str, Sequence[int]]
    """Steps at which something began anew: ``resumed`` and ``phase``."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Record:
    """One job."""

    run: RunDirectory
    state: Mapping[str, Any]
    spec: AnyJobSpec
    trainings: Sequence[Training]
    """One, or one for each trial of a sweep."""
    trials: Sequence[TrialRow]
    """Of a sweep; empty for every other job."""
    attempts: Sequence[Attempt]
    workers: Sequence[WorkerRow]
    """Newest steps of the newest attempt; empty where no times are recorded."""
    worker_series: WorkerSeries | None
    straggler_events: Sequence[Event]
    """``straggler`` and ``straggler_over``, in their order."""
    read_at_s: float
    """Seconds since 1970."""

    @property
    def has_script(self) -> bool:
        """Whether the job runs a script, whose steps and metrics are its own."""
        return isinstance(self.spec, ScriptJobSpec)

    @property
    def num_logged(self) -> int:
        """Steps that are on record, of all trainings together."""
        return sum(one.series["loss"].num_logged for one in self.trainings if "loss" in one.series)


def read_record(run: RunDirectory, state: Mapping[str, Any], now_s: float) -> Record:
    """Read everything that a page tells of a job, which may be in any phase."""
    trials = trial_rows(run)
    directories = run.trials or [run]
    trainings = [_training(one, _label(trials, number)) for number, one in enumerate(directories)]
    events = list(read_json_lines(run.events_file))
    return Record(
        run=run,
        state=state,
        spec=load_resolved(run.resolved_spec),
        trainings=trainings,
        trials=trials,
        attempts=_attempts(run, state, trainings),
        workers=worker_rows(run),
        worker_series=read_worker_series(run.worker_times_file),
        straggler_events=[event for event in events if event["event"] in ("straggler", "straggler_over")],
        read_at_s=now_s,
    )


def _attempts(run: RunDirectory, state: Mapping[str, Any], trainings: Sequence[Training]) -> list[Attempt]:
    """Those of the job, or of a sweep whose trials have workers of their own those of each."""
    if "concurrent" not in state:
        clocks = [time for training in trainings for time in _clock(training)]
        return attempts_of(read_json_lines(run.events_file), sorted(clocks))
    return [
        replace(attempt, trial=number)
        for number, (trial, training) in enumerate(zip(run.trials, trainings, strict=True))
        for attempt in attempts_of(read_json_lines(trial.events_file), sorted(_clock(training)))
    ]


def _clock(training: Training) -> list[float]:
    """When its steps were logged, in seconds since 1970."""
    times: list[float] = training.series["time"].values.tolist() if "time" in training.series else []
    return times


def _label(trials: Sequence[TrialRow], number: int) -> str:
    return f"trial {number}" if trials else ""


def _training(directory: RunDirectory, label: str) -> Training:
    decisions: list[Decision] = []
    starts: dict[str, list[int]] = {}
    num_decisions, size = 0, None
    for event in read_json_lines(directory.events_file):
        if event["event"] in ("resumed", "phase"):
            starts.setdefault(event["event"], []).append(event["step"])
        if event["event"] in ("started", "phase"):
            size = event.get("global_size")
        if event["event"] == "batch":
            num_decisions += 1
            if event["batch"] != size:
                size = event["batch"]
                decisions.append(Decision(step=event["step"], batch=size, lr=event["lr"], reason=event["reason"]))
    return Training(
        label=label,
        series=read_series(directory.metrics_file),
        decisions=decisions,
        num_decisions=num_decisions,
        starts=starts,
    )
