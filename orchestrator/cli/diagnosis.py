"""`orchestrator doctor`: everything that a job needs, checked from here, with the command that mends what is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from orchestrator.cli import diagnose
from orchestrator.cli.diagnose import OK, OUT_OF_REACH, PROBLEM, WARNING, Finding
from orchestrator.cli.options import Address, Json, Storage
from orchestrator.cli.output import aligned, emit, emit_json, paint
from orchestrator.core import errors
from orchestrator.core.errors import OrchestratorError, OutOfReachError

REACH_TIMEOUT_S = 10.0
LEVEL_COLORS = {OK: "green", WARNING: "yellow", PROBLEM: "red", OUT_OF_REACH: "red"}


def doctor(address: Address = None, storage: Storage = None, as_json: Json = False) -> int:
    """Check Ray, storage, MLflow and versions.

    Says how to mend what is wrong; changes nothing.
    """
    from orchestrator.launch.ray_jobs import ADDRESS_VARIABLES
    from orchestrator.launch.store import resolve_storage

    folder = resolve_storage(storage, None, os.environ)
    has_cluster = address is not None or any(os.environ.get(name) for name in ADDRESS_VARIABLES)
    findings = diagnose.local_findings(os.environ, folder, has_cluster=has_cluster)
    findings += [check_cluster(address, os.environ)] if has_cluster else []
    findings += [check_mlflow(os.environ, folder)]
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


def check_cluster(address: str | None, environ: Mapping[str, str]) -> Finding:
    """The cluster of ``--address`` or of the environment answers and lets us in."""
    from orchestrator.launch.ray_jobs import ADDRESS_VARIABLES, RayJobs

    try:
        cluster = RayJobs(address, environ)
        cluster.connect()
    except OutOfReachError as error:
        return Finding(
            "ray cluster", OUT_OF_REACH, str(error), "start it with `ray start --head`, or correct the address"
        )
    except OrchestratorError as error:
        return Finding("ray cluster", PROBLEM, str(error), f"correct --address or {ADDRESS_VARIABLES[0]}")
    return Finding("ray cluster", OK, f"{cluster.address} answers")


def check_mlflow(environ: Mapping[str, str], storage: Path) -> Finding:
    """The tracking address can be used and answers as it will answer a job: also to this host name."""
    from orchestrator.tracking.uri import check_reachable, redact, resolve_tracking_uri, sqlite_path

    uri = resolve_tracking_uri(None, environ, storage)
    try:
        check_reachable(uri, REACH_TIMEOUT_S)
    except OutOfReachError as error:
        level = OUT_OF_REACH if sqlite_path(uri) is None else PROBLEM
        return Finding("mlflow server", level, str(error), "start it, or correct MLFLOW_TRACKING_URI")
    except OrchestratorError as error:
        return Finding("mlflow server", PROBLEM, str(error), "correct or unset MLFLOW_TRACKING_URI")
    return Finding("mlflow server", OK, f"{redact(uri)} can be used")


def _emit(findings: list[Finding]) -> None:
    rows = [(paint(finding.level, LEVEL_COLORS[finding.level]), finding.check, finding.message) for finding in findings]
    for finding, line in zip(findings, aligned(rows), strict=True):
        emit(line)
        if finding.mend:
            emit(f"    mend: {finding.mend}")
