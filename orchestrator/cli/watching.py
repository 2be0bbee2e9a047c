"""`orchestrator watch`: what all jobs, or some, are doing, again and again."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from orchestrator.cli.frames import BLOCKS, FULL, Row, WatchedJob, frame, summary
from orchestrator.cli.options import Storage
from orchestrator.cli.output import emit, is_terminal, tell
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory

TERMINAL_EVERY_S = 1.0
LINES_EVERY_S = 10.0
"""Seconds between two frames where there is no terminal to redraw."""

Jobs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[JOB]...", help="Names of jobs. [default: all that have not ended]", show_default=False),
]
Once = Annotated[bool, typer.Option("--once", help="Print one frame and end.", show_default=False)]


def watch(jobs: Jobs = None, once: Once = False, storage: Storage = None) -> None:
    """Show jobs while they go on.

    Phase, progress, time left and the times of the newest steps, redrawn on a terminal and printed again and again
    elsewhere, until all these jobs have ended. Ctrl-C ends the watching, never a job.
    """
    watched = [WatchedJob(run) for run in _chosen(jobs or [], storage)]
    if not watched:
        tell("No job is going on; `orchestrator list` shows all.")
        return
    if once:
        emit("\n".join(_lines([job.look() for job in watched])))
    elif is_terminal(sys.stdout):
        _redraw(watched)
    else:
        _print(watched)


def _chosen(names: Sequence[str], storage: str | None) -> list[RunDirectory]:
    """The named jobs, else all that go on, the newest first.

    Raises:
        UsageError: where the storage has no job of a name.
    """
    from orchestrator.launch.control import reconcile
    from orchestrator.launch.store import JobStore, resolve_storage

    store = JobStore(resolve_storage(storage, None, os.environ))
    if names:
        return [store.get(name) for name in dict.fromkeys(names)]
    found = [(run, reconcile(run)) for run in store.jobs()]
    found.sort(key=lambda job: -(job[1].get("created_at") or 0))
    return [run for run, state in found if state["phase"] not in TERMINAL_PHASES]


def _frames(watched: Sequence[WatchedJob], every_s: float) -> Iterator[list[Row]]:
    """The rows of each frame; the last is that in which all jobs have ended."""
    while True:
        yield [job.look() for job in watched]
        if all(job.has_ended for job in watched):
            return
        time.sleep(every_s)


def _lines(rows: Sequence[Row]) -> list[str]:
    return [summary(rows, time.strftime("%H:%M:%S")), *frame(rows, has_blocks=_has_blocks())]


def _has_blocks() -> bool:
    try:
        f"{BLOCKS}{FULL}".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _redraw(watched: Sequence[WatchedJob]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        for rows in _frames(watched, TERMINAL_EVERY_S):
            text = Text.from_ansi("\n".join(_lines(rows)), no_wrap=True, overflow="ellipsis")
            live.update(text, refresh=True)


def _print(watched: Sequence[WatchedJob]) -> None:
    for number, rows in enumerate(_frames(watched, LINES_EVERY_S)):
        if not emit("\n" * bool(number) + "\n".join(_lines(rows))):
            return
