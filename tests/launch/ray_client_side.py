"""What tests do with the Jobs API. In a process of its own, because Ray reads its token settings only once."""

import os
from pathlib import Path
from typing import Any

from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch import control, ray_connection, ray_entrypoint
from orchestrator.launch.backends import backend_of
from orchestrator.launch.prepare import PreparedJob, prepare_resume
from orchestrator.launch.ray_jobs import RayJobs


def set_up(token: str | None) -> None:
    ray_entrypoint.DRIVER_MODULE = "standin_driver"
    ray_connection.CONNECT_TIMEOUT_S = 5.0
    if token:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    # The argument has to win over the environment.
    os.environ["RAY_ADDRESS"] = "http://127.0.0.1:9"


def connect(address: str) -> str:
    """The error, or nothing."""
    try:
        RayJobs(address).connect()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def start(address: str, prepared: PreparedJob) -> str:
    return RayJobs(address).start(prepared)


def start_error(address: str, prepared: PreparedJob) -> str:
    try:
        return RayJobs(address).start(prepared)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def status(address: str, submission_id: str) -> str:
    return RayJobs(address).status(submission_id)


def vitals(root: Path) -> tuple[str, str, str]:
    state = RunDirectory(root).read_state()
    found = backend_of(state).vitals(RunDirectory(root), state)
    return found.liveness.value, found.explanation, found.ended_as


def logs(root: Path, address: str | None, *, follow: bool) -> str:
    state = RunDirectory(root).read_state()
    backend = RayJobs(address) if address else backend_of(state)
    return "".join(backend.logs(RunDirectory(root), state, follow=follow))


def stop(root: Path, timeout_s: float) -> dict[str, Any]:
    return control.stop(RunDirectory(root), timeout_s)


def reconcile(root: Path) -> dict[str, Any]:
    return control.reconcile(RunDirectory(root))


def resume(root: Path) -> PreparedJob:
    return prepare_resume(RunDirectory(root))
