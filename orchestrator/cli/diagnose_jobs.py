"""What `orchestrator doctor` sees of jobs whose driver is gone, though their records say that they go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.diagnose import OK, PROBLEM, WARNING, Finding
from orchestrator.cli.figures import counted
from orchestrator.core.run_directory import RunDirectory

if TYPE_CHECKING:
    from orchestrator.launch.ray_jobs import RayJobs

MAX_NAMES = 5


def job_findings(storage: Path, cluster: RayJobs | None) -> list[Finding]:
    """Jobs to recover, jobs to resume, and records that cannot be read; one finding that all is well without any."""
    from orchestrator.launch.recovery import Action, Clusters, survey
    from orchestrator.launch.store import JobStore

    cases = survey(storage, Clusters(cluster))

    def are(action: Action) -> list[RunDirectory]:
        return [case.run for case in cases if case.action is action]

    address = cluster.address if cluster else "http://HEAD:8265"
    findings = []
    if lost := are(Action.RESUBMIT):
        message = f"{counted(len(lost), 'job')} lost the driver: {_names(lost)}"
        findings.append(Finding("jobs", WARNING, message, f"orchestrator recover --address {address}"))
    if dead := are(Action.LOCAL):
        message = f"{counted(len(dead), 'job')} of `orchestrator run` lost the driver: {_names(dead)}"
        findings.append(Finding("jobs", WARNING, message, f"orchestrator resume {dead[0].name}"))
    if doubtful := are(Action.UNDECIDED):
        message = f"of {counted(len(doubtful), 'job')} it is not known whether the driver lives: {_names(doubtful)}"
        findings.append(
            Finding("jobs", WARNING, message, "orchestrator recover --dry-run says why, and when it will be")
        )
    if unwanted := are(Action.CLOSE):
        message = f"{counted(len(unwanted), 'job')} ended without a last word: {_names(unwanted)}"
        findings.append(Finding("jobs", WARNING, message, "orchestrator list closes the record"))
    if open_runs := [run for run in JobStore(storage).jobs() if _has_open_runs(run)]:
        message = f"MLflow runs of {counted(len(open_runs), 'job')} that ended still go on: {_names(open_runs)}"
        findings.append(Finding("jobs", WARNING, message, "orchestrator list ends them, once MLflow answers"))
    for case in (case for case in cases if case.action is Action.FAILED):
        mend = f"mv {case.run.root} out of the storage, or restore its state.json"
        findings.append(Finding("jobs", PROBLEM, f"{case.run.name}: {case.why}", mend))
    return findings or [Finding("jobs", OK, "no job has lost its driver")]


def _has_open_runs(run: RunDirectory) -> bool:
    """Whether MLflow did not answer when the job ended. A damaged record is told as that."""
    try:
        return run.read_state().get("mlflow_open_since") is not None
    except ValueError:
        return False


def _names(runs: list[RunDirectory]) -> str:
    more = f" and {len(runs) - MAX_NAMES} more" if len(runs) > MAX_NAMES else ""
    return ", ".join(run.name for run in runs[:MAX_NAMES]) + more
