"""Which trials of a sweep are stopped early: what they have measured, told to Optuna's pruners in the order of time.

Nothing is kept but ``metrics.jsonl`` and ``state.json`` of the trials: a driver that takes over a sweep reads them
again and comes to the same decisions.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from orchestrator.core.run_directory import PRUNED, RunDirectory
from orchestrator.spec.methods.early_stopping import EarlyStopping

_AHEAD = {"asha": "others are ahead", "median": "the median of finished trials is better"}


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value of the metric that is compared."""

    trial: int
    time: float
    """Seconds since 1970."""
    amount: int
    """Steps or samples that the trial had taken."""
    value: float


@dataclass(frozen=True, slots=True)
class End:
    """A trial has ended for good."""

    trial: int
    time: float
    """Seconds since 1970."""
    state: TrialState


class MetricReader:
    """Reads one metric of one trial as it is logged; steps that are taken again after a restart are read once.

    Args:
        trial: its number.
        path: its ``metrics.jsonl``, which need not exist yet.
        metric: name in that file.
        unit: name there of what is counted: ``step`` or ``samples``.
    """

    def __init__(self, trial: int, path: Path, metric: str, unit: str) -> None:
        self._trial = trial
        self._path = path
        self._metric = metric
        self._unit = unit
        self._inode: int | None = None
        self._offset = 0
        self._amount = 0

    def new(self) -> Iterator[Measurement]:
        """What was logged since the last call."""
        if not self._path.exists():
            return
        marker = f'"{self._metric}"'.encode()
        with self._path.open("rb") as stream:
            inode = os.fstat(stream.fileno()).st_ino
            if inode != self._inode:  # an attempt that goes on writes the file anew
                self._inode, self._offset = inode, 0
            stream.seek(self._offset)
            while (line := stream.readline()).endswith(b"\n"):
                self._offset += len(line)
                # Searched as bytes: long trainings have many lines, few of which hold an evaluation.
                measurement = self._parsed(line) if marker in line else None
                if measurement is not None and measurement.amount > self._amount:
                    self._amount = measurement.amount
                    yield measurement

    def _parsed(self, line: bytes) -> Measurement | None:
        try:
            fields = json.loads(line)
            return Measurement(self._trial, fields["time"], fields[self._unit], float(fields[self._metric]))
        except (ValueError, KeyError, TypeError):  # a line that a crash damaged, or another kind of value
            return None


class Judge:
    """Compares trials and says which are to be stopped.

    Args:
        rule: of the spec.
        trials: their run directories, by number.
    """

    def __init__(self, rule: EarlyStopping, trials: Sequence[RunDirectory]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        direction = "minimize" if rule.mode == "min" else "maximize"
        # The sampler is never asked: what a trial sets is in the spec.
        study = optuna.create_study(direction=direction, pruner=pruner_of(rule), sampler=RandomSampler())
        unit = "step" if rule.first.unit == "steps" else "samples"
        self._rule = rule
        self._directories = trials
        self._study = study
        self._trials = [study.ask() for _ in trials]
        self._readers = [
            MetricReader(number, trial.metrics_file, rule.metric, unit) for number, trial in enumerate(trials)
        ]
        self._ended: set[int] = set()
        self._points: dict[int, int] = {}
        """By trial: of the comparisons at equal distances, the last one that it has come to."""
        self.verdicts: dict[int, str] = {}
        """Why trials are to be stopped, by number; a verdict stands, whatever the trial measures later."""

    def look(self) -> None:
        """Take in everything that was measured or has ended since the last look, in the order of time."""
        # Ends first: of a trial that has ended all is logged.
        ends = [end for number in range(len(self._trials)) if (end := self._end_of(number)) is not None]
        news: list[Measurement | End] = [
            *ends,
            *(measurement for reader in self._readers for measurement in reader.new()),
        ]
        for one in sorted(news, key=attrgetter("time")):
            if isinstance(one, Measurement):
                self._take(one)
            else:
                self._close(one)

    def _take(self, measurement: Measurement) -> None:
        number = measurement.trial
        if number in self._ended or number in self.verdicts:
            return
        point = self._point_of(measurement)
        if point is None:
            return
        trial = self._trials[number]
        trial.report(measurement.value, point)
        if trial.should_prune():
            self.verdicts[number] = (
                f"stopped early by {self._rule.rule}: {self._rule.metric} {measurement.value:.4g} after "
                f"{measurement.amount:,} {self._rule.first.unit}, {_AHEAD[self._rule.rule]}"
            )

    def _point_of(self, measurement: Measurement) -> int | None:
        """Under which number the pruner hears of a value; None where the trial is between two comparisons.

        ASHA finds its own places among amounts. The median is of values at the same place, and trials need not have
        measured at the same amounts: each counts with its first value at or after one, two, three times ``first``.
        """
        if self._rule.rule == "asha":
            return measurement.amount
        point = measurement.amount // self._rule.first.amount
        if point <= self._points.get(measurement.trial, 0):
            return None
        self._points[measurement.trial] = point
        return point

    def _end_of(self, number: int) -> End | None:
        """The end of a trial that is not known yet; one that will go on has not ended."""
        directory = self._directories[number]
        if number in self._ended or not directory.metrics_file.exists():
            return None
        state = directory.read_state()
        ended = state.get("finished_at")
        if ended is None:
            return None
        if state["phase"] == "succeeded":
            return End(number, ended, TrialState.COMPLETE)
        if state.get("reason") == PRUNED:
            return End(number, ended, TrialState.PRUNED)
        return End(number, ended, TrialState.FAIL) if state["phase"] == "failed" else None

    def _close(self, end: End) -> None:
        self._ended.add(end.trial)
        trial, values = self._trials[end.trial], self._values_of(end.trial)
        if end.state is TrialState.COMPLETE and values and math.isfinite(values[-1]):
            self._study.tell(trial, values[-1])
        else:
            # A finished trial without a value is nothing that others could be compared with.
            self._study.tell(trial, state=TrialState.FAIL if end.state is TrialState.COMPLETE else end.state)

    def _values_of(self, number: int) -> list[float]:
        """What the pruner has heard of a trial, in its order."""
        reported: dict[int, Any] = self._study.get_trials(deepcopy=False)[number].intermediate_values
        return [reported[point] for point in sorted(reported)]


def pruner_of(rule: EarlyStopping) -> BasePruner:
    """Optuna's pruner of a rule."""
    if rule.rule == "asha":
        factor = rule.parameter("reduction_factor")
        return SuccessiveHalvingPruner(min_resource=rule.first.amount, reduction_factor=factor)
    return MedianPruner(n_startup_trials=rule.parameter("finished_trials"), n_warmup_steps=0, interval_steps=1)
