"""`orchestrator queue`: who waits for the cluster, in which order and for what, as the run directories tell."""

from __future__ import annotations

import os
import time
from typing import Any

from orchestrator.cli.figures import duration
from orchestrator.cli.options import Json, Storage
from orchestrator.cli.output import aligned, emit, emit_json, phase_text, tell
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory


def queue(storage: Storage = None, as_json: Json = False) -> None:
    """Print who waits for a cluster, and why.

    Jobs that hold a place come first, then those that wait, in their order. Positions are those among all jobs of the
    cluster, of other storages too, which are not shown.
    """
    from orchestrator.launch.control import reconcile
    from orchestrator.launch.store import JobStore, resolve_storage
    from orchestrator.spec.quotas import read_quotas

    folder = resolve_storage(storage, None, os.environ)
    quotas = read_quotas(folder)
    states = [entry for run in JobStore(folder).jobs() for entry in _with_trials(run, reconcile(run))]
    jobs = [_job(name, state) for name, state in states if state["phase"] not in TERMINAL_PHASES and "queue" in state]
    jobs.sort(key=lambda job: (job["position"] is None, job["position"], job["name"]))
    if as_json:
        emit_json({"jobs": jobs, "quotas": {owner: quota.model_dump() for owner, quota in quotas.items()}})
        return
    if not jobs:
        tell(f"No job of {folder} is in a cluster's queue.")
        return
    for line in aligned(
        [("POSITION", "NAME", "PHASE", "PRIORITY", "OWNER", "NEEDS", "AGE", "REASON"), *map(_row, jobs)]
    ):
        emit(line)


def _with_trials(run: RunDirectory, state: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A job, or of a sweep that goes on the trials that have entries of their own in the queue."""
    if "concurrent" not in state or state["phase"] in TERMINAL_PHASES:
        return [(run.name, state)]
    return [(f"{run.name}-{trial.name}", trial.read_state()) for trial in run.trials]


def _job(name: str, state: dict[str, Any]) -> dict[str, Any]:
    entry = state["queue"]
    return {
        "name": name,
        "phase": state["phase"],
        "position": entry.get("position"),
        "priority": entry["priority"],
        "owner": entry["owner"],
        "workers": entry["workers"],
        **({"max_workers": entry["max_workers"]} if "max_workers" in entry else {}),
        "gpus": entry["gpus"],
        "cpus": entry["cpus"],
        "submitted_at": state["created_at"],
        "reason": (state.get("message") or None) if state["phase"] == "queued" else None,
    }


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    # 0 is a job with a place; a job that has not been answered yet has no position.
    position = f"{job['position'] or ''}"
    gpus = f"{job['gpus']:g} GPUs, " if job["gpus"] else ""
    elastic = f", {job['workers']} of up to {job['max_workers']} workers" if "max_workers" in job else ""
    return (
        position,
        job["name"],
        phase_text(job["phase"]),
        str(job["priority"]),
        job["owner"] or "",
        f"{gpus}{job['cpus']:g} CPUs{elastic}",
        duration(time.time() - job["submitted_at"]),
        job["reason"] or "",
    )
