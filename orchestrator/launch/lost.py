"""Jobs whose driver is gone: signs of life, and the last words that the driver could not write itself."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from orchestrator.core.errors import OrchestratorError, OutOfReachError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.environment import tracking_uri
from orchestrator.launch.trials import close_trials
from orchestrator.spec.load import load_resolved
from orchestrator.tracking.run import finish_run
from orchestrator.tracking.sender import replay
from orchestrator.tracking.uri import check_reachable

LOST = "driver_lost"
REACH_TIMEOUT_S = 5.0
TRY_AGAIN_S = 60.0
"""Between two attempts to end MLflow runs that were left open."""
TRY_AGAIN_TIMEOUT_S = 1.0
"""Commands that only look at jobs make these attempts; nobody waits long for them."""
REPLAY_TIMEOUT_S = 10.0
"""For the metrics that a job could not send before its end, where MLflow answers."""


def silence_s(run_directory: RunDirectory) -> float:
    """Seconds since the job last wrote its state, an event or a metric."""
    files = (run_directory.state_file, run_directory.events_file, run_directory.metrics_file)
    return time.time() - max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def declare_lost(run_directory: RunDirectory, explanation: str, *, phase: str = "failed") -> dict[str, Any]:
    """Close the records of a job whose driver ended without doing so and of its trials, and their MLflow runs.

    The caller knows that the driver is gone. An MLflow that does not answer changes nothing: the runs are ended later.

    Args:
        run_directory: The job.
        explanation: One clause: what became of the driver.
        phase: ``failed``, or ``stopped`` where somebody asked for the end.

    Returns:
        The new state.
    """
    message = f"{explanation}; `orchestrator resume {run_directory.name}` continues."
    state = run_directory.update_state(phase=phase, reason=LOST, message=message, finished_at=time.time())
    run_directory.event(LOST, {"phase": phase, "message": message})
    close_trials(run_directory, phase, state["finished_at"])
    error = _end_runs(run_directory, state, REACH_TIMEOUT_S)
    if error is None:
        return state
    run_directory.event("tracking_out_of_reach", {"message": str(error)})
    return run_directory.update_state(mlflow_open_since=_now_if_out_of_reach(error))


def has_open_runs(state: Mapping[str, Any]) -> bool:
    """Whether MLflow did not answer when the job ended, and it is time to ask it again."""
    since = state.get("mlflow_open_since")
    return since is not None and time.time() - since > TRY_AGAIN_S


def end_open_runs(run_directory: RunDirectory, state: Mapping[str, Any]) -> dict[str, Any]:
    """Send what is left to the MLflow runs of a job that has ended, and of its trials, and end them.

    Returns:
        The new state.
    """
    error = _end_runs(run_directory, state, TRY_AGAIN_TIMEOUT_S)
    return run_directory.update_state(mlflow_open_since=_now_if_out_of_reach(error))


def _now_if_out_of_reach(error: OrchestratorError | None) -> float | None:
    """A run that was deleted, say, is not asked for again."""
    return time.time() if isinstance(error, OutOfReachError) else None


def _end_runs(run_directory: RunDirectory, state: Mapping[str, Any], timeout_s: float) -> OrchestratorError | None:
    """Complete the runs and give them the status of their job or trial; why that cannot be done now, or None."""
    records = [(run_directory, state), *((trial, trial.read_state()) for trial in run_directory.trials)]
    with_run = [(directory, one) for directory, one in records if one.get("mlflow_run_id") is not None]
    if not with_run:
        return None
    try:
        uri = recorded_tracking_uri(run_directory, state, os.environ)
        check_reachable(uri, timeout_s)
        for directory, one in with_run:
            # First, because it says where there is no such run any more; MLflow takes metrics of one that has ended.
            finish_run(uri, one["mlflow_run_id"], one["phase"], one["finished_at"])
            if unsent := replay(directory, uri, one["mlflow_run_id"], REPLAY_TIMEOUT_S):
                return OutOfReachError(f"MLflow did not take {unsent} lines of metrics in {REPLAY_TIMEOUT_S:g} s")
    except OrchestratorError as error:
        return error
    return None


def recorded_tracking_uri(run_directory: RunDirectory, state: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The tracking URI that the job was prepared with; one with a password is not on record and is resolved again."""
    uri = state.get("tracking_uri")
    if uri and "***" not in uri:
        return str(uri)
    return tracking_uri(load_resolved(run_directory.resolved_spec), run_directory.storage, environ)
