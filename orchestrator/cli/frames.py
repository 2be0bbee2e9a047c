"""One frame of `orchestrator watch`: a line for each job, with a bar and the times of its newest steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.cli.figures import counted, duration, figure
from orchestrator.cli.follow import ENDS, RATE_WINDOW, Length, Progress, length_of, parsed, slowest, time_left_s
from orchestrator.cli.output import aligned, phase_text
from orchestrator.cli.report import place_text
from orchestrator.cli.result import workers_text
from orchestrator.cli.tail import Tail, last_lines
from orchestrator.cli.watch import RECONCILE_S
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory

NUM_TIMES = 24
"""Newest logged steps whose times are drawn."""
BAR_WIDTH = 16
BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
"""From the shortest to the longest step, where the output takes them and where it does not."""
FULL, EMPTY = ("█", "░"), ("#", "-")
HEADER = ("JOB", "PHASE", "PROGRESS", "", "LEFT", "STEP TIME", "")
MAX_MESSAGE = 60
"""Characters of a message that a frame shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One job at one moment."""

    name: str
    phase: str
    progress: Progress | None
    """None before the first logged step."""
    step_s: Sequence[float]
    """Seconds of the newest logged steps, oldest first; of a sweep, those of its slowest trial."""
    num_trials: int
    """Of a sweep, whose slowest trial is shown: those that share workers, or go on; 0 without one."""
    message: str
    workers: str | None = None
    """Of an elastic job, how many it has of those that it may have."""


class WatchedJob:
    """Looks at one job again and again; what it has read of the events it does not read again."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._trainings = [_Training(directory) for directory in run.trials or [run]]
        self._state: Mapping[str, Any] = {}
        self._reconcile_at = 0.0

    @property
    def has_ended(self) -> bool:
        """Whether the last look saw a phase that the job never leaves."""
        return self._state.get("phase") in TERMINAL_PHASES

    def look(self) -> Row:
        """The job as it is now; whether its driver still lives is looked at seldom, as that may ask a cluster."""
        from orchestrator.launch.control import reconcile

        if time.monotonic() >= self._reconcile_at:
            self._reconcile_at = time.monotonic() + RECONCILE_S
            self._state = reconcile(self.run)
        else:
            self._state = self.run.read_state()
        for training in self._trainings:
            training.look()
        going = [one for one in self._trainings if one.progress and not one.has_ended]
        progress = slowest(one.progress for one in going or self._trainings if one.progress)
        is_apart = "concurrent" in self._state
        shown = next((one for one in self._trainings if progress is not None and one.progress is progress), None)
        return Row(
            name=self.run.name,
            phase=str(self._state.get("phase", "")),
            # How long trials take that have not begun, nobody knows.
            progress=replace(progress, left_s=None) if progress and is_apart else progress,
            step_s=shown.step_s if shown else (),
            num_trials=len(going) if is_apart else len(self.run.trials),
            message=str(self._state.get("message") or "").partition("\n")[0],
            workers=workers_text(self._state),
        )


class _Training:
    """A job's training, or that of one trial."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._events = Tail(directory.events_file)
        self._length = Length()
        self.progress: Progress | None = None
        self.step_s: list[float] = []
        self.has_ended = False

    def look(self) -> None:
        for event in parsed(self._events.lines()):
            self._length = length_of(event) or self._length
            self.has_ended = event["event"] in ENDS or (self.has_ended and length_of(event) is None)
        recent = [line for line in parsed(last_lines(self._directory.metrics_file, NUM_TIMES)) if "step" in line]
        if recent:
            self.progress = Progress(recent[-1], self._length, time_left_s(recent[-RATE_WINDOW:], self._length))
        self.step_s = [line["step_s"] for line in recent if isinstance(line.get("step_s"), float | int)]


def frame(rows: Sequence[Row], *, has_blocks: bool) -> list[str]:
    """The lines of one frame; the header alone where there are no jobs.

    Args:
        rows: One for each job, in their order.
        has_blocks: Whether the output can show block characters.
    """
    return aligned([HEADER, *(_cells(row, has_blocks) for row in rows)])


def _cells(row: Row, has_blocks: bool) -> tuple[str, ...]:
    is_running = row.phase == "running"
    progress = row.progress
    left = duration(progress.left_s) if is_running and progress and progress.left_s is not None else ""
    place = place_text(progress).removeprefix("step ") if progress else ""
    if progress and row.num_trials:
        place += f", slowest of {counted(row.num_trials, 'trial')}"
    if row.workers:
        place = ", ".join(filter(None, (place, f"{row.workers} workers")))
    newest = f"{figure(row.step_s[-1])} s" if row.step_s else ""
    # A job that trains shows its pace, any other what it waits for or how it ended.
    last = sparkline(row.step_s, has_blocks=has_blocks) if is_running and row.step_s else row.message[:MAX_MESSAGE]
    return (
        row.name,
        phase_text(row.phase),
        bar(progress.share if progress else 0.0, has_blocks=has_blocks),
        place,
        left,
        newest,
        last,
    )


def bar(share: float, *, has_blocks: bool) -> str:
    """A bar that is as full as the share, and its percent."""
    full, empty = FULL if has_blocks else EMPTY
    num_full = int(min(max(share, 0.0), 1.0) * BAR_WIDTH)
    return full * num_full + empty * (BAR_WIDTH - num_full) + f" {share:4.0%}"


def sparkline(seconds: Sequence[float], *, has_blocks: bool) -> str:
    """One character for each time, from 0 up to the longest."""
    marks = BLOCKS if has_blocks else PLAIN_BLOCKS
    longest = max(seconds, default=0.0) or 1.0
    return "".join(marks[min(int(value / longest * len(marks)), len(marks) - 1)] for value in seconds)


def summary(rows: Sequence[Row], clock: str) -> str:
    """The line above a frame: when it was made and how many jobs are in which phase."""
    phases = {phase: sum(row.phase == phase for row in rows) for phase in dict.fromkeys(row.phase for row in rows)}
    return f"{clock}  {counted(len(rows), 'job')}: {', '.join(f'{count} {phase}' for phase, count in phases.items())}"
