"""Shows a followed job: a progress line on a terminal, plain lines elsewhere. Both are told the same updates."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from orchestrator.cli.figures import duration, figure
from orchestrator.cli.follow import Evaluation, PhaseChange, Progress, Update
from orchestrator.cli.notices import Notice
from orchestrator.cli.output import emit, paint

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

LINE_EVERY_S = 5.0
"""Seconds between two progress lines where there is no terminal."""
NOTICE_COLORS = {"info": None, "warning": "yellow", "error": "red"}
PHASE_TEXTS = {
    "queued": "queued: waiting for its turn",
    "preparing": "preparing: unpacking code, opening MLflow",
    "placing": "placing: waiting for its workers",
    "running": "running",
}
"""What a phase means, where the job itself gives no message."""


class Report(Protocol):
    """Shows updates as they come; a context, so that a terminal is left clean."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, update: Update) -> None:
        """Show one update."""


def step_text(step: int, total_steps: int | None) -> str:
    """`step 120/300`, or `step 120` while the length is not known."""
    return f"step {step:,}/{total_steps:,}" if total_steps else f"step {step:,}"


def progress_texts(progress: Progress) -> list[str]:
    """Loss, learning rate, samples per second and time left, as far as they are known."""
    metrics = progress.metrics
    texts = [f"{label} {figure(metrics[key])}" for key, label in (("loss", "loss"), ("lr", "lr")) if key in metrics]
    if "samples_per_s" in metrics:
        texts.append(f"{metrics['samples_per_s']:,.0f} samples/s")
    if progress.left_s is not None:
        texts.append(f"{duration(progress.left_s)} left")
    return texts


def line_of(update: Update) -> str:
    """One update as one line, in color where stdout shows colors."""
    match update:
        case PhaseChange(phase, message):
            return paint(f"{phase}: {message}" if message else PHASE_TEXTS.get(phase, phase), "bold")
        case Notice(text, level):
            return paint(text, NOTICE_COLORS[level])
        case Evaluation(step, total_steps, metrics):
            values = [f"{key} {figure(value)}" for key, value in metrics.items()]
            return "  ".join([step_text(step, total_steps), *values])
        case Progress(step, total_steps):
            return "  ".join([step_text(step, total_steps), *progress_texts(update)])


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
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[figures]}"))
        self._progress: RichProgress = Progress(*columns, console=Console(highlight=False), transient=True, expand=True)
        self._task = self._progress.add_task("", total=None, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, update: Update) -> None:
        """Move the bar on a step; print everything else above it."""
        if isinstance(update, Progress):
            self._advance(update)
        else:
            self._progress.console.print(line_of(update), markup=False, soft_wrap=True)
        if isinstance(update, PhaseChange):
            self._progress.update(self._task, description=update.phase)

    def _advance(self, progress: Progress) -> None:
        fields: dict[str, Any] = {"figures": "  ".join([step_text(progress.step, progress.total_steps), *progress_texts(progress)])}
        self._progress.update(self._task, completed=progress.step, total=progress.total_steps, **fields)
