"""`orchestrator list`, `status` and `stop`: jobs as their run directories tell of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from orchestrator.cli.figures import duration, figure
from orchestrator.cli.follow import (
    RATE_WINDOW,
    Length,
    Progress,
    last_evaluation,
    length_of,
    parsed,
    slowest,
    time_left_s,
)
from orchestrator.cli.options import JobName, Json, Storage, open_job
from orchestrator.cli.output import aligned, emit, emit_fields, emit_json, phase_text, tell
from orchestrator.cli.report import place_text
from orchestrator.cli.result import mlflow_fields, wall_time_s, workers_text
from orchestrator.cli.tail import last_lines
from orchestrator.cli.trials import rows_as_json as trials_as_json
from orchestrator.cli.trials import trial_rows, trial_table
from orchestrator.cli.workers import rows_as_json, table, worker_rows
from orchestrator.core.errors import SUCCESS, TIMED_OUT
from orchestrator.core.run_directory import PRUNED, TERMINAL_PHASES, RunDirectory, read_json_lines


def list_jobs(storage: Storage = None, as_json: Json = False) -> None:
    """Print all jobs, the newest first."""
    from orchestrator.launch.control import reconcile
    from orchestrator.launch.store import JobStore, resolve_storage

    folder = resolve_storage(storage, None, os.environ)
    jobs = [(run, reconcile(run)) for run in JobStore(folder).jobs()]
    jobs.sort(key=lambda job: -(job[1].get("created_at") or 0))
    if as_json:
        emit_json([summary(run, state) for run, state in jobs])
        return
    if not jobs:
        tell(f"No jobs in {folder}.")
        return
    rows = [("NAME", "PHASE", "STEP", "ATTEMPTS", "AGE", "MESSAGE"), *(_row(run, state) for run, state in jobs)]
    for line in aligned(rows):
        emit(line)


def status(job: JobName, storage: Storage = None, as_json: Json = False) -> None:
    """Print what a job is doing.

    Phase and reason, progress, where things are, what to do next, and how long each worker takes for its own part.
    """
    from orchestrator.launch.control import reconcile

    run = open_job(job, storage)
    state = reconcile(run)
    rows, trials = worker_rows(run), trial_rows(run)
    if as_json:
        of_trials = {"trials": trials_as_json(trials)} if trials else {}
        emit_json({**summary(run, state), **of_trials, "workers": rows_as_json(rows)})
        return
    emit_fields(_status_fields(run, state))
    if trials:
        emit("\n" + "\n".join(trial_table(trials)))
    if rows:
        emit("\n" + "\n".join(table(rows)))


def stop(
    job: JobName,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Longest wait for the end of the job.")
    ] = 120.0,
    storage: Storage = None,
) -> int:
    """Stop a job after its current step, with a checkpoint.

    Waits until the job has ended; exit code 4 if it has not within the time.
    """
    from orchestrator.launch import control

    run = open_job(job, storage)
    before = control.reconcile(run)
    if before["phase"] in TERMINAL_PHASES:
        tell(f"{job} had ended before: {before['phase']}.")
        return SUCCESS
    state = control.stop(run, timeout_s)
    if state["phase"] not in TERMINAL_PHASES:
        tell(f"{job} is still {state['phase']} after {timeout_s:g} s; the request stands.")
        return TIMED_OUT
    tell(f"{job}: {state.get('message') or state['phase']}")
    return SUCCESS


def progress_of(run: RunDirectory) -> Progress | None:
    """The newest logged step and the time left, read from the run directory; None before the first step.

    Of a sweep, those of the trial that has most to do.
    """
    if trials := run.trials:
        going = [trial for trial in trials if _goes_on(trial.read_state())]
        found = slowest(trial for trial in map(progress_of, going or trials) if trial is not None)
        # How long trials take that have not begun, nobody knows.
        return replace(found, left_s=None) if found and "concurrent" in run.read_state() else found
    recent = parsed(last_lines(run.metrics_file, RATE_WINDOW))
    if not recent:
        return None
    lengths = [length for event in read_json_lines(run.events_file) if (length := length_of(event))]
    length = lengths[-1] if lengths else Length()
    return Progress(recent[-1], length, time_left_s(recent, length))


def _goes_on(trial: Mapping[str, Any]) -> bool:
    """Whether a trial is not left behind by the others of its sweep."""
    return trial["phase"] != "failed" and trial.get("reason") != PRUNED


def summary(run: RunDirectory, state: Mapping[str, Any]) -> dict[str, Any]:
    """A job for ``--json``: its state, its newest metrics and what follows from them."""
    progress = progress_of(run)
    return {
        "name": run.name,
        "run_directory": run.root,
        **state,
        "total_steps": progress.length.total_steps if progress else None,
        "total_samples": progress.length.total_samples if progress else None,
        "metrics": {**progress.metrics, **last_evaluation(run)} if progress and not run.trials else {},
        "left_s": progress.left_s if progress and state["phase"] == "running" else None,
        "wall_time_s": wall_time_s(state, time.time()),
    }


def _row(run: RunDirectory, state: Mapping[str, Any]) -> tuple[str, ...]:
    progress = progress_of(run)
    place = place_text(progress).removeprefix("step ") if progress else ""
    created_at = state.get("created_at")
    age = duration(time.time() - created_at) if created_at else ""
    message = (state.get("message") or "").partition("\n")[0]
    return (run.name, phase_text(state["phase"]), place, str(state.get("attempts") or 0), age, message)


def _status_fields(run: RunDirectory, state: Mapping[str, Any]) -> dict[str, Any]:
    progress = progress_of(run)
    metrics = progress.metrics if progress and not run.trials else {}
    seconds = wall_time_s(state, time.time())
    is_running = state["phase"] == "running"
    return {
        "job": run.name,
        "phase": phase_text(state["phase"]),
        "reason": state.get("reason"),
        "message": state.get("message"),
        "attempts": state.get("attempts") or 0,
        "workers": workers_text(state),
        "progress": place_text(progress) if progress else None,
        "loss": figure(metrics["loss"]) if "loss" in metrics else None,
        **{key: figure(value) for key, value in last_evaluation(run).items()},
        "samples/s": figure(metrics["samples_per_s"]) if is_running and "samples_per_s" in metrics else None,
        "time left": duration(progress.left_s) if is_running and progress and progress.left_s is not None else None,
        "wall time": None if seconds is None else duration(seconds),
        "run directory": run.root,
        "model": run.model_file if run.model_file.exists() else None,
        **mlflow_fields(run, state),
        "next": ", ".join(f"orchestrator {command}" for command in _next_commands(run, state["phase"])),
    }


def _next_commands(run: RunDirectory, phase: str) -> list[str]:
    if phase == "succeeded":
        return [f"logs {run.name}"]
    if phase in TERMINAL_PHASES:
        return [f"logs {run.name}", f"resume {run.name}"]
    return [f"logs -f {run.name}", f"stop {run.name}"]
