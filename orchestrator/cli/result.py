"""How a job ended, for people: the figures, where things are, and what went wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cli.figures import duration, figure
from orchestrator.cli.follow import last_evaluation
from orchestrator.cli.output import emit, emit_fields, paint, phase_text, tell
from orchestrator.cli.tail import last_lines
from orchestrator.cli.trials import best_trial, trial_rows, trial_table
from orchestrator.cli.workers import slowest_worker
from orchestrator.core.errors import JOB_FAILED, STOPPED, SUCCESS
from orchestrator.core.run_directory import RunDirectory, last_json_line, read_json_lines

NUM_LOG_LINES = 15
ENDED_BEFORE_TRAINING = ("timed_out", "could_not_start", "submission_failed")
"""Reasons whose exit code says more than that the job failed."""


def exit_code_of(state: Mapping[str, Any]) -> int:
    """The exit code for a job that has ended."""
    if state["phase"] != "failed":
        return SUCCESS if state["phase"] == "succeeded" else STOPPED
    if state.get("reason") in ENDED_BEFORE_TRAINING:
        return int(state.get("exit_code") or JOB_FAILED)
    return JOB_FAILED


def wall_time_s(state: Mapping[str, Any], now_s: float | None = None) -> float | None:
    """Seconds from the start of the last driver to the end of the job, or to now; None before a start."""
    end = state.get("finished_at") or now_s
    if state.get("started_at") is None or end is None:
        return None
    return max(0.0, float(end) - float(state["started_at"]))


def workers_text(state: Mapping[str, Any]) -> str | None:
    """How many workers an elastic job has, and asks for, of those that it may have; None of all other jobs."""
    limits, wanted = state.get("worker_range"), state.get("workers_wanted")
    if not limits:
        return None
    asks = "" if wanted in (None, state["num_workers"]) else f" (asks for {wanted})"
    return f"{state['num_workers']}{asks} of {limits['min']} to {limits['max']}"


def mlflow_command(uri: str) -> str:
    """How to look at the history: the page of a server, else the command that serves a database."""
    return uri if uri.startswith(("http://", "https://")) else f"mlflow ui --backend-store-uri {uri}"


def failed_rank(run: RunDirectory) -> int | None:
    """The rank that the driver gave up over; None where no rank is to blame."""
    ends = [
        event
        for event in read_json_lines(run.events_file)
        if event["event"] in ("gave_up", "started", "resumed", "queued")
    ]
    rank = ends[-1].get("rank") if ends and ends[-1]["event"] == "gave_up" else None
    return None if rank is None else int(rank)


def log_that_explains(run: RunDirectory, state: Mapping[str, Any]) -> Path | None:
    """The log of the rank that failed, else the driver's; None where neither has a word."""
    rank = failed_rank(run)
    candidates = [run.driver_log] if rank is None else [run.rank_log(state["attempts"], rank), run.driver_log]
    return next((path for path in candidates if path.exists() and path.stat().st_size), None)


def result_fields(run: RunDirectory, state: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth knowing of a job that has ended, by label."""
    last = last_json_line(run.metrics_file) or {}
    seconds = wall_time_s(state)
    return {
        "result": phase_text(state["phase"]),
        "steps": None if state.get("step") is None else figure(state["step"]),
        "samples": figure(last["samples"]) if "samples" in last else None,
        "loss": figure(last["loss"]) if "loss" in last else None,
        **{key: figure(value) for key, value in last_evaluation(run).items()},
        "wall time": None if seconds is None else duration(seconds),
        "slowest worker": slowest_worker(run),
        "run directory": run.root,
        "model": run.model_file if state["phase"] == "succeeded" and run.model_file.exists() else None,
        **mlflow_fields(run, state),
    }


def mlflow_fields(run: RunDirectory, state: Mapping[str, Any]) -> dict[str, Any]:
    """The MLflow run and how to open it, by label; empty before there is one."""
    from orchestrator.launch.lost import recorded_tracking_uri
    from orchestrator.tracking.uri import redact

    if not state.get("mlflow_run_id"):
        return {}
    uri = redact(recorded_tracking_uri(run, state, os.environ))
    return {"MLflow run": state["mlflow_run_id"], "open MLflow": mlflow_command(uri)}


def emit_result(run: RunDirectory) -> None:
    """Print how a job ended; for a failure also why, with the last lines of the log that explains it."""
    state = run.read_state()
    emit("")
    emit_fields(result_fields(run, state))
    if rows := trial_rows(run):
        emit("\n" + "\n".join(trial_table(rows)))
        if (best := best_trial(run, rows)) is not None:
            emit(f"best: {best}")
    if state["phase"] == "failed":
        _tell_failure(run, state)
    elif state["phase"] == "stopped":
        message = state.get("message") or "stopped"
        command = f"orchestrator resume {run.name}"
        emit(f"\n{message}" if command in message else f"\n{message}; `{command}` continues.")


def _tell_failure(run: RunDirectory, state: Mapping[str, Any]) -> None:
    import sys

    failed = [trial for trial in run.trials if trial.read_state()["phase"] == "failed"] if "concurrent" in state else []
    log = log_that_explains(failed[0], failed[0].read_state()) if failed else log_that_explains(run, state)
    if log is not None:
        tell(f"\nthe last lines of {log}:")
        tell("\n".join(f"    {line}" for line in last_lines(log, NUM_LOG_LINES)))
    tell(f"\n{paint('error:', 'red', sys.stderr)} {state.get('message') or state.get('reason') or 'the job failed'}")
