"""`orchestrator doctor`: everything that a job needs, checked from here, with the command that mends what is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import diagnose
from orchestrator.cli.diagnose import OK, OUT_OF_REACH, PROBLEM, WARNING, Finding
from orchestrator.cli.diagnose_cluster import cluster_findings
from orchestrator.cli.diagnose_jobs import job_findings
from orchestrator.cli.diagnose_machine import machine_findings
from orchestrator.cli.diagnose_nodes import node_findings
from orchestrator.cli.options import Address, Json, Storage
from orchestrator.cli.output import aligned, emit, emit_json, paint
from orchestrator.core import errors
from orchestrator.core.errors import OrchestratorError, OutOfReachError

REACH_TIMEOUT_S = 10.0
LEVEL_COLORS = {OK: "green", WARNING: "yellow", PROBLEM: "red", OUT_OF_REACH: "red"}

Nodes = Annotated[
    bool,
    typer.Option(
        "--nodes",
        help="Ask every node of the cluster too, by a short Ray job: storage, versions, limits, clock.",
        show_default=False,
    ),
]


def doctor(address: Address = None, nodes: Nodes = False, storage: Storage = None, as_json: Json = False) -> int:
    """Check Ray, storage, MLflow, versions, limits and jobs.

    Says how to mend what is wrong; changes nothing.
    """
    from orchestrator.launch.ray_connection import ADDRESS_VARIABLES
    from orchestrator.launch.store import resolve_storage

    folder = resolve_storage(storage, None, os.environ)
    has_cluster = nodes or address is not None or any(os.environ.get(name) for name in ADDRESS_VARIABLES)
    findings = diagnose.local_findings(os.environ, folder, has_cluster=has_cluster)
    findings += machine_findings(os.environ)
    cluster, of_cluster = cluster_findings(address, os.environ) if has_cluster else (None, [])
    findings += of_cluster
    findings += node_findings(cluster, folder) if nodes and cluster is not None else []
    findings += mlflow_findings(os.environ, folder)
    findings += job_findings(folder, cluster)
    if as_json:
        emit_json([finding.as_dict() for finding in findings])
    else:
        _emit(findings)
    return exit_code_of(findings)


def exit_code_of(findings: list[Finding]) -> int:
    """0 without a problem, 5 where something is out of reach, else 2; warnings do not count."""
    levels = {finding.level for finding in findings}
    if OUT_OF_REACH in levels:
        return errors.OUT_OF_REACH
    return errors.BAD_USAGE if PROBLEM in levels else errors.SUCCESS


def mlflow_findings(environ: Mapping[str, str], storage: Path) -> list[Finding]:
    """The tracking address can be used, answers as it will answer a job, and what it needs is installed."""
    from orchestrator.tracking.packages import missing_for
    from orchestrator.tracking.uri import artifact_location, check_reachable, redact, resolve_tracking_uri, sqlite_path

    uri = resolve_tracking_uri(None, environ, storage)
    findings = []
    try:
        check_reachable(uri, REACH_TIMEOUT_S)
    except OutOfReachError as error:
        level = OUT_OF_REACH if sqlite_path(uri) is None else PROBLEM
        findings.append(Finding("mlflow server", level, str(error), "start it, or correct MLFLOW_TRACKING_URI"))
    except OrchestratorError as error:
        return [Finding("mlflow server", PROBLEM, str(error), "correct or unset MLFLOW_TRACKING_URI")]
    else:
        findings.append(Finding("mlflow server", OK, f"{redact(uri)} can be used"))
    location = artifact_location(uri, REACH_TIMEOUT_S) if findings[0].level == OK else None
    for needed in missing_for(uri, location):
        message = f"{needed.module} is not installed, without which {redact(location or uri)} cannot be reached"
        findings.append(
            Finding("mlflow packages", PROBLEM, message, f"pip install '{needed.package}', on the nodes too")
        )
    return findings


def _emit(findings: list[Finding]) -> None:
    rows = [(paint(finding.level, LEVEL_COLORS[finding.level]), finding.check, finding.message) for finding in findings]
    for finding, line in zip(findings, aligned(rows), strict=True):
        emit(line)
        if finding.mend:
            emit(f"    mend: {finding.mend}")
