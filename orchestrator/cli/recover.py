"""`orchestrator recover`: after a lost cluster, what was running is handed to another one."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Address, Json, Storage
from orchestrator.cli.output import emit, emit_json, paint, tell
from orchestrator.core.errors import JOB_FAILED, OUT_OF_REACH, SUCCESS

if TYPE_CHECKING:
    from orchestrator.launch.recovery import Case

Jobs = Annotated[
    list[str], typer.Argument(metavar="[JOB]...", help="Only these jobs. [default: all]", show_default=False)
]
Lost = Annotated[
    list[str],
    typer.Option(
        "--lost",
        metavar="URL",
        help="A cluster that is gone for good: its jobs are not given time to write again. May be repeated.",
        show_default=False,
    ),
]
Local = Annotated[
    bool,
    typer.Option("--local", help="Hand lost jobs of `orchestrator run` to the cluster too.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.", show_default=False)]

ACTION_COLORS = {
    "resubmitted": "green",
    "resubmit": "green",
    "undecided": "yellow",
    "closed": "yellow",
    "close": "yellow",
    "failed": "red",
}


def recover(
    jobs: Jobs = [],  # noqa: B006 - typer reads the default and never changes it
    address: Address = None,
    lost: Lost = [],  # noqa: B006 - as above
    local: Local = False,
    dry_run: DryRun = False,
    storage: Storage = None,
    as_json: Json = False,
) -> int:
    """Resubmit the jobs that a lost cluster has left behind.

    Looks through the storage for jobs that have not ended, or were found lost in the last week, and whose driver is
    gone, and hands them to the cluster: by priority, then in the order of their first submission. Each continues
    from its last checkpoint in its own MLflow run, at its old rank in the queue. Jobs that live, or may live, are
    told and left alone. May be called again at any time.

    Exit code 1 if a job could not be handed over, else 5 if it is not known of one whether it lives.
    """
    from orchestrator.launch.preflight import check_quotas
    from orchestrator.launch.ray_jobs import RayJobs
    from orchestrator.launch.recovery import Clusters, resubmit, survey
    from orchestrator.launch.store import resolve_storage

    folder = resolve_storage(storage, None, os.environ)
    check_quotas(folder)
    cluster = RayJobs(address)
    cluster.connect()
    gone = [url.rstrip("/") for url in lost]
    cases = survey(folder, Clusters(cluster), names=jobs, lost=gone, with_local=local)
    shown = []
    for case in cases:
        shown.append(case if dry_run else resubmit(case, cluster))
        if not as_json:
            _tell_about(shown[-1], widest=max(len(case.run.name) for case in cases))
    if as_json:
        emit_json({"cluster": cluster.address, "dry_run": dry_run, "jobs": [_as_dict(case) for case in shown]})
    else:
        _tell_sum(shown, cluster.address)
    return exit_code_of(shown)


def exit_code_of(cases: list[Case]) -> int:
    """0 where every job is decided and handed over, else 1 where one was not taken, else 5."""
    actions = {case.action.value for case in cases}
    if "failed" in actions:
        return JOB_FAILED
    return OUT_OF_REACH if "undecided" in actions else SUCCESS


def _tell_about(case: Case, *, widest: int) -> None:
    action = case.action.value
    what = paint(action.ljust(11), ACTION_COLORS.get(action))
    as_what = f" as {case.submission_id}" if case.submission_id else ""
    emit(f"{case.run.name.ljust(widest)}  {what}  {case.why}{as_what}")


def _tell_sum(cases: list[Case], address: str) -> None:
    if not cases:
        tell("No job waits for its recovery.")
        return
    counts = Counter(case.action.value for case in cases)
    tell(f"{address}: {', '.join(f'{count} {action}' for action, count in counts.items())}.")


def _as_dict(case: Case) -> dict[str, Any]:
    return {
        "name": case.run.name,
        "action": case.action.value.replace(" ", "_"),
        "why": case.why,
        "phase": case.phase,
        "priority": case.priority,
        "submitted_at": case.submitted_at,
        "submission_id": case.submission_id,
        "run_directory": case.run.root,
    }
