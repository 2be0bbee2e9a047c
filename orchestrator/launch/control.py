"""What one does to a job from outside: stop it, and close the record of one whose driver is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from filelock import FileLock

from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory
from orchestrator.launch.backends import Vitals, backend_of
from orchestrator.launch.lost import declare_lost, end_open_runs, has_open_runs
from orchestrator.launch.processes import Liveness

POLL_INTERVAL_S = 0.2
RECONCILE_INTERVAL_S = 2.0


@contextmanager
def exclusive(run_directory: RunDirectory) -> Iterator[None]:
    """Hold the job against other commands that would resume it or declare it lost at the same time."""
    with FileLock(run_directory.root / ".lock"):
        yield


def vitals_of(run_directory: RunDirectory, state: dict[str, Any]) -> Vitals:
    """What is known about the driver of a job that has not ended."""
    return backend_of(state).vitals(run_directory, state)


def reconcile(run_directory: RunDirectory) -> dict[str, Any]:
    """Close the record of a job that has not ended although its driver is provably gone.

    Such a job becomes ``failed`` (``stopped`` where Ray was asked to end it) with reason ``driver_lost``, and so does
    its MLflow run. A job that lives, or may live, is never touched; one that has ended is only read, unless its MLflow
    run still goes on because MLflow did not answer then.

    Returns:
        The state as it is afterwards.
    """
    state = run_directory.read_state()
    # What cannot be recorded is not decided either: somebody else's storage is only read.
    if not state or not os.access(run_directory.root, os.W_OK):
        return state
    if state["phase"] in TERMINAL_PHASES and not has_open_runs(state):
        return state
    with exclusive(run_directory):
        state = run_directory.read_state()
        if state["phase"] in TERMINAL_PHASES:
            return end_open_runs(run_directory, state) if has_open_runs(state) else state
        vitals = vitals_of(run_directory, state)
        if vitals.liveness is not Liveness.GONE:
            return state
        # Read again: the driver may have written its last word between the first reading and its end.
        state = run_directory.read_state()
        if state["phase"] in TERMINAL_PHASES:
            return state
        return declare_lost(run_directory, vitals.explanation, phase=vitals.ended_as)


def stop(run_directory: RunDirectory, timeout_s: float) -> dict[str, Any]:
    """Ask a job to stop with a checkpoint and wait until it has ended.

    Returns:
        The last state seen: of a phase that is not final if the job still runs after ``timeout_s`` seconds.

    Raises:
        OutOfReachError: if the job's cluster does not answer.
    """
    deadline = time.monotonic() + timeout_s
    state = reconcile(run_directory)
    if state["phase"] in TERMINAL_PHASES:
        return state
    run_directory.event("stop_requested")
    backend_of(state).stop(run_directory, state)
    next_reconcile = time.monotonic()
    while state["phase"] not in TERMINAL_PHASES and time.monotonic() < deadline:
        time.sleep(min(POLL_INTERVAL_S, max(0.0, deadline - time.monotonic())))
        if time.monotonic() >= next_reconcile:
            state = reconcile(run_directory)
            next_reconcile = time.monotonic() + RECONCILE_INTERVAL_S
        else:
            state = run_directory.read_state()
    return state
