"""`orchestrator logs`: what the ranks of one attempt, or the driver, wrote."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JobName, Storage, open_job
from orchestrator.cli.output import emit, tell
from orchestrator.cli.tail import Tail
from orchestrator.cli.watch import Watch
from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory

POLL_S = 0.2


def logs(
    job: JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until the job ends.")] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank.", show_default=False)] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Which life of the job. [default: the last]", show_default=False)
    ] = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="Of a sweep, the trial whose workers wrote it.", show_default=False)
    ] = None,
    driver: Annotated[bool, typer.Option("--driver", help="The log of the driver instead of the ranks.")] = False,
    storage: Storage = None,
) -> None:
    """Print what a job's workers wrote.

    Lines start with `[rank k]` where there are several ranks.
    """
    whole = open_job(job, storage)
    run = whole if trial is None else _trial(whole, trial)
    if driver and (rank is not None or attempt is not None):
        raise UsageError("--driver: the driver has one log; give it without --rank and --attempt.")
    if driver:
        _emit_driver_log(run, follow=follow)
        return
    reader, watch = LogReader(run, rank=rank, attempt=attempt), Watch(whole)
    while True:
        is_finished = not follow or watch.has_ended() or run.read_state()["phase"] in TERMINAL_PHASES
        for line in reader.new_lines(with_unfinished=is_finished):
            if not emit(line):
                return
        if is_finished:
            break
        time.sleep(POLL_S)
    if not reader.found_any:
        tell(_nothing_found(run, rank, attempt, job if trial is None else f"{job} --trial {trial}"))


def _trial(run: RunDirectory, number: int) -> RunDirectory:
    """One trial of a sweep.

    Raises:
        UsageError: where there is none of this number, or its workers are those of all trials.
    """
    count = len(run.trials)
    if not count:
        raise UsageError(f"--trial: {run.name} is no sweep.")
    if number >= count:
        raise UsageError(f"--trial: {run.name} has no trial {number}; there are 0 to {count - 1}.")
    if "concurrent" not in run.read_state():
        raise UsageError(f"--trial: the trials of {run.name} share their workers; leave --trial out.")
    return run.trial(number)


def _emit_driver_log(run: RunDirectory, *, follow: bool) -> None:
    """The driver's own words; a driver that has not come to its run directory yet is heard through its cluster."""
    from orchestrator.launch.backends import backend_of
    from orchestrator.launch.local import LocalBackend

    state = run.read_state()
    backend = LocalBackend() if run.driver_log.exists() else backend_of(state)
    for text in backend.logs(run, state, follow=follow):
        if not emit(text, end=""):
            return


def attempts_with_logs(run: RunDirectory) -> list[int]:
    """Numbers of the attempts that have a folder of logs, ascending."""
    if not run.logs.is_dir():
        return []
    return sorted(int(folder.name) for folder in run.logs.iterdir() if folder.name.isdigit())


def rank_logs(run: RunDirectory, attempt: int) -> dict[int, Path]:
    """Log files of an attempt by rank, ascending."""
    paths = (run.logs / str(attempt)).glob("rank_*.log")
    by_rank = {int(number): path for path in paths if (number := path.stem.removeprefix("rank_")).isdigit()}
    return dict(sorted(by_rank.items()))


class LogReader:
    """Reads the chosen files as they grow; ranks and attempts that appear later are taken in."""

    def __init__(self, run: RunDirectory, *, rank: int | None, attempt: int | None) -> None:
        self._run = run
        self._rank = rank
        self._attempt = attempt
        self._tails: dict[Path, tuple[str, Tail]] = {}

    @property
    def found_any(self) -> bool:
        """Whether any file was there to read."""
        return bool(self._tails)

    def new_lines(self, *, with_unfinished: bool) -> Iterator[str]:
        """Lines since the last call, rank by rank; an attempt that is over is read to its end as well."""
        for label, path in self._files():
            self._tails.setdefault(path, (label, Tail(path)))
        has_several = len({label for label, _ in self._tails.values()}) > 1
        for label, tail in self._tails.values():
            prefix = f"[{label}] " if has_several else ""
            for line in tail.lines(with_unfinished=with_unfinished):
                yield prefix + line

    def _files(self) -> list[tuple[str, Path]]:
        attempts = [self._attempt] if self._attempt is not None else attempts_with_logs(self._run)[-1:]
        return [
            (f"rank {rank}", path)
            for attempt in attempts
            for rank, path in rank_logs(self._run, attempt).items()
            if self._rank in (None, rank)
        ]


def _nothing_found(run: RunDirectory, rank: int | None, attempt: int | None, name: str) -> str:
    attempts = attempts_with_logs(run)
    if not attempts:
        hint = f"`orchestrator logs --driver {name}` shows the driver's"
        if "concurrent" in run.read_state():
            hint = f"`orchestrator logs {name} --trial 0` shows those of its first trial"
        return f"no rank of {name} has a log; it is {run.read_state()['phase']}. {hint}."
    if attempt is not None and attempt not in attempts:
        return f"{name} has no attempt {attempt}; there are {', '.join(map(str, attempts))}."
    ranks = rank_logs(run, attempt or attempts[-1])
    if rank is not None and ranks:
        return f"{name} has no log of rank {rank}; there are {', '.join(map(str, ranks))}."
    return f"no rank of attempt {attempt or attempts[-1]} has written a log; `orchestrator logs --driver {name}`?"
