"""Shows a followed job: a progress line on a terminal, plain lines elsewhere. Both are told the same updates."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from orchestrator.cli.figures import counted, duration, figure
from orchestrator.cli.follow import Evaluation, PhaseChange, Progress, Update
from orchestrator.cli.notices import Notice
from orchestrator.cli.output import emit, is_terminal, paint

LINE_EVERY_S = 5.0
"""Seconds between two progress lines where there is no terminal."""
NOTICE_COLORS = {"info": None, "warning": "yellow", "error": "red"}
PHASE_TEXTS = {
    "queued": "queued: waiting for its driver, or for its turn",
    "preparing": "preparing: starting Ray, opening MLflow",
    "placing": "placing: waiting for the workers",
}
"""What a phase means, where its name does not say it."""


class Report(Protocol):
    """Shows updates as they come; a context, so that a terminal is left clean."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, update: Update) -> None:
        """Show one update."""


def place_text(progress: Progress) -> str:
    """How far the training is: `step 120/300`, or by samples where the number of steps is open."""
    metrics, length = progress.metrics, progress.length
    if length.total_steps is not None:
        return f"step {metrics['step']:,}/{length.total_steps:,}"
    if length.total_samples is not None and "samples" in metrics:
        return f"step {metrics['step']:,}  {metrics['samples'] / length.total_samples:.0%} of the samples"
    return f"step {metrics['step']:,}"


def progress_text(progress: Progress) -> str:
    """Place, loss, learning rate, samples per second and time left, as far as they are known.

    Of a sweep, the place and time left of its slowest trial.
    """
    metrics = progress.metrics
    if progress.num_trials:
        left = [] if progress.left_s is None else [f"{duration(progress.left_s)} left"]
        who = "1 trial" if progress.num_trials == 1 else f"{counted(progress.num_trials, 'trial')}, the slowest"
        return "  ".join([f"{who} at {place_text(progress)}", *left])
    texts = [place_text(progress), *(f"{key} {figure(metrics[key])}" for key in ("loss", "lr") if key in metrics)]
    if "samples_per_s" in metrics:
        texts.append(f"{figure(round(metrics['samples_per_s']))} samples/s")
    if progress.left_s is not None:
        texts.append(f"{duration(progress.left_s)} left")
    return "  ".join(texts)


def line_of(update: Update) -> str:
    """One update as one line, in color where stdout shows colors."""
    match update:
        case PhaseChange(phase):
            return paint(PHASE_TEXTS.get(phase, phase), "bold")
        case Notice(text, level):
            return paint(text, NOTICE_COLORS[level])
        case Evaluation(step, metrics, trial):
            where = f"step {step:,}" if trial is None else f"trial {trial}  step {step:,}"
            return "  ".join([where, *(f"{key} {figure(value)}" for key, value in metrics.items())])
        case Progress():
            return progress_text(update)


class PlainReport:
    """Lines for a file or a pipe: every change of phase, event and evaluation, and a step about every 5 s."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_line_s = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, update: Update) -> None:
        """Print one update, unless it is a step too soon after the last one."""
        if isinstance(update, Progress):
            if self._clock() - self._last_line_s < LINE_EVERY_S:
                return
            self._last_line_s = self._clock()
        emit(line_of(update))


class TerminalReport:
    """A progress line that is redrawn in place, with everything else scrolling above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        words = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        columns = (SpinnerColumn(), BarColumn(bar_width=None), words)
        self._bar = Bar(*columns, console=Console(highlight=False), transient=True, expand=True)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, update: Update) -> None:
        """Move the bar on a step; print everything else above it."""
        from rich.text import Text

        if isinstance(update, Progress):
            done, total = _share(update)
            self._bar.update(self._task, completed=done, total=total, description=progress_text(update))
            return
        self._bar.console.print(Text.from_ansi(line_of(update)), soft_wrap=True)
        if isinstance(update, PhaseChange):
            self._bar.update(self._task, description=update.phase)


def _share(progress: Progress) -> tuple[float, float | None]:
    """How much is done of how much; None where the length is not known."""
    if progress.length.total_steps is not None:
        return progress.metrics["step"], progress.length.total_steps
    return progress.metrics.get("samples", 0), progress.length.total_samples


def open_report() -> Report:
    """The report that suits stdout."""
    return TerminalReport() if is_terminal(sys.stdout) else PlainReport()
