"""Jobs whose driver is gone: signs of life, and the last words that the driver could not write itself."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.environment import tracking_uri
from orchestrator.launch.trials import close_trials
from orchestrator.spec.load import load_resolved
from orchestrator.tracking.run import finish_run
from orchestrator.tracking.uri import check_reachable

LOST = "driver_lost"
REACH_TIMEOUT_S = 5.0


def silence_s(run_directory: RunDirectory) -> float:
    """Seconds since the job last wrote its state, an event or a metric."""
    files = (run_directory.state_file, run_directory.events_file, run_directory.metrics_file)
    return time.time() - max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def declare_lost(run_directory: RunDirectory, explanation: str, *, phase: str = "failed") -> dict[str, Any]:
    """Close the records of a job whose driver ended without doing so and of its trials, and their MLflow runs.

    The caller knows that the driver is gone. An MLflow that does not answer changes nothing.

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
    _close_tracking_runs(run_directory, state, [state, *close_trials(run_directory, phase, state["finished_at"])])
    return state


def _close_tracking_runs(
    run_directory: RunDirectory, state: Mapping[str, Any], states: Sequence[Mapping[str, Any]]
) -> None:
    with_run = [one for one in states if one.get("mlflow_run_id") is not None]
    if not with_run:
        return
    try:
        uri = recorded_tracking_uri(run_directory, state, os.environ)
        check_reachable(uri, REACH_TIMEOUT_S)
        for one in with_run:
            finish_run(uri, one["mlflow_run_id"], one["phase"], one["finished_at"])
    except OrchestratorError as error:
        run_directory.event("tracking_out_of_reach", {"message": str(error)})


def recorded_tracking_uri(run_directory: RunDirectory, state: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The tracking URI that the job was prepared with; one with a password is not on record and is resolved again."""
    uri = state.get("tracking_uri")
    if uri and "***" not in uri:
        return str(uri)
    return tracking_uri(load_resolved(run_directory.resolved_spec), run_directory.storage, environ)
