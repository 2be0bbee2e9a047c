"""What is new in a run directory, as values. Reads files only: it follows a job the same way wherever the job runs."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from orchestrator.cli.notices import Notice, notice_of
from orchestrator.cli.tail import Tail
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory

RATE_WINDOW = 20
"""Number of logged steps whose median rate predicts the time left."""
EVALUATION_PREFIX = "eval/"


@dataclass(frozen=True, slots=True)
class PhaseChange:
    """The job entered a phase."""

    phase: str
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest logged step."""

    step: int
    total_steps: int | None
    metrics: Mapping[str, Any]
    left_s: float | None
    """Predicted seconds to the last step; None where the rate or the length is not known yet."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of the evaluation data after a step."""

    step: int
    total_steps: int | None
    metrics: Mapping[str, Any]


Update = PhaseChange | Progress | Evaluation | Notice


def evaluation_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The ``eval/`` metrics of one line."""
    return {key: value for key, value in metrics.items() if key.startswith(EVALUATION_PREFIX)}


def time_left_s(lines: Iterable[Mapping[str, Any]], total_steps: int | None) -> float | None:
    """Seconds to the last step at the median rate of the given metric lines; None without a rate or a length."""
    steps = [line for line in lines if line.get("samples_per_s") and line.get("global_size")]
    if not steps or total_steps is None:
        return None
    seconds_per_step = median(line["global_size"] / line["samples_per_s"] for line in steps)
    return float(max(0, total_steps - steps[-1]["step"]) * seconds_per_step)


class Follower:
    """Turns the growth of ``state.json``, ``events.jsonl`` and ``metrics.jsonl`` into updates.

    A job that is continued is followed with ``skip_existing``: what its earlier attempts wrote is not told again.
    """

    def __init__(self, run: RunDirectory, *, skip_existing: bool = False) -> None:
        self.run = run
        self.state: dict[str, Any] = {}
        self._events = Tail(run.events_file, skip_existing=skip_existing)
        self._metrics = Tail(run.metrics_file, skip_existing=skip_existing)
        self._rates: deque[Mapping[str, Any]] = deque(maxlen=RATE_WINDOW)
        self._phase: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the last poll saw a phase that the job never leaves."""
        return self.state.get("phase") in TERMINAL_PHASES

    def poll(self) -> list[Update]:
        """Everything new, in the order in which it is to be told. The state is read first, so an end comes last."""
        self.state = self.run.read_state()
        change = self._phase_change()
        updates: list[Update] = [change] if change and not self.is_finished else []
        notices = (notice_of(json.loads(line)) for line in self._events.lines())
        updates += [notice for notice in notices if notice]
        updates += self._metric_updates()
        return [*updates, change] if change and self.is_finished else updates

    def _phase_change(self) -> PhaseChange | None:
        phase = self.state.get("phase")
        if phase is None or phase == self._phase:
            return None
        self._phase = phase
        return PhaseChange(phase, self.state.get("message") or "")

    def _metric_updates(self) -> list[Update]:
        total_steps = self.state.get("total_steps")
        lines = [json.loads(line) for line in self._metrics.lines()]
        steps = [line for line in lines if "loss" in line]
        self._rates.extend(steps)
        updates: list[Update] = []
        if steps:
            updates.append(Progress(steps[-1]["step"], total_steps, steps[-1], time_left_s(self._rates, total_steps)))
        for line in lines:
            evaluation = evaluation_of(line)
            if evaluation:
                updates.append(Evaluation(line["step"], total_steps, evaluation))
        return updates
