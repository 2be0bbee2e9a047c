"""What a driver process runs. The job's MLflow runs are being opened beside it before it imports Ray."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from orchestrator.core.environment import SUBMISSION_VARIABLE
from orchestrator.core.errors import JOB_FAILED
from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule.history import JobHistory
from orchestrator.spec.load import load_resolved
from orchestrator.spec.sweep import has_separate_trials

_POLL_S = 0.2
_CURRENT_WITHIN_S = 60.0
"""A shared folder may show an older state for some time."""


def is_current(directory: RunDirectory, submission_id: str | None) -> bool:
    """Whether a submission is the one that the job waits for: one from a cluster that was given up may come late.

    Args:
        directory: the job's run directory.
        submission_id: None where a driver was not submitted to a cluster.
    """
    deadline = time.monotonic() + _CURRENT_WITHIN_S
    while submission_id is not None and _submission_of(directory) != submission_id:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _submission_of(directory: RunDirectory) -> str | None:
    submission_id: str | None = (directory.read_state().get("backend") or {}).get("submission_id")
    return submission_id


def main(arguments: list[str] | None = None) -> int:
    """``python -m orchestrator.schedule.main RUN_DIRECTORY [--embedded | --has-room] [--watch-parent]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run_directory", type=Path)
    parser.add_argument("--embedded", action="store_true", help="start a private Ray cluster")
    parser.add_argument("--has-room", action="store_true", help="attach to a sweep's private Ray, without a queue")
    parser.add_argument("--watch-parent", action="store_true", help="end when standard input is closed")
    options: Any = parser.parse_args(arguments)
    if options.watch_parent:
        threading.Thread(target=_die_with_parent, daemon=True).start()
    # Ray may clean up the folder that it unpacked this job into (two nodes on one host do); the run directory stays.
    directory = RunDirectory(options.run_directory.absolute())
    os.chdir(directory.code)
    submission_id = None if options.embedded else os.environ.get(SUBMISSION_VARIABLE)
    if not is_current(directory, submission_id):
        print(f"{directory.name} was submitted again after {submission_id}; nothing was done.", file=sys.stderr)
        return JOB_FAILED
    spec = load_resolved(directory.resolved_spec)
    history = JobHistory(spec, directory)
    history.open_in_background()
    # Here and not above: these import Ray.
    from orchestrator.schedule.driver import JobDriver
    from orchestrator.schedule.sweep_driver import SweepDriver

    if has_separate_trials(spec):
        return SweepDriver(directory, spec, embedded=options.embedded).run(history)
    return JobDriver(directory, embedded=options.embedded, has_room=options.has_room).run(history)


def _die_with_parent() -> None:
    """End this process, and with it its private cluster, when the process that started it is gone."""
    # The bare descriptor: a thread inside a buffered read keeps the interpreter from shutting down.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
