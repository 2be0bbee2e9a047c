"""The seam between a job and the place where its driver runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.tables import load
from orchestrator.launch.processes import Liveness

if TYPE_CHECKING:
    from orchestrator.launch.prepare import PreparedJob

BACKENDS = {
    "local": "orchestrator.launch.local:LocalBackend",
    "ray_jobs": "orchestrator.launch.ray_jobs:RayJobs",
}
"""Kind -> class; each has a ``from_record`` that takes the ``backend`` mapping of a job's state.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What a backend knows about a job's driver."""

    liveness: Liveness
    explanation: str
    """One clause for a person: what the driver is, or how it ended."""
    ended_as: str = "failed"
    """The phase of a job whose driver is gone without having written one."""


class Backend(Protocol):
    """Starts, watches and stops drivers. ``state`` is always the content of the job's state.json."""

    def start(self, prepared: PreparedJob, environ: Mapping[str, str]) -> Any:
        """Record the backend in state.json, then start the driver; what comes back identifies it."""

    def vitals(self, run_directory: RunDirectory, state: Mapping[str, Any]) -> Vitals:
        """Whether the driver lives. Never raises for a cluster that does not answer: that is unknown."""

    def stop(self, run_directory: RunDirectory, state: Mapping[str, Any]) -> None:
        """Ask the driver to end gracefully; returns at once."""

    def logs(self, run_directory: RunDirectory, state: Mapping[str, Any], *, follow: bool) -> Iterator[str]:
        """What the driver printed, in pieces; with ``follow`` until it has ended."""


def backend_of(state: Mapping[str, Any]) -> Backend:
    """The backend that holds a job.

    Raises:
        UsageError: if it is of a kind that this version does not know.
    """
    record = state.get("backend") or {"kind": "local"}
    if record["kind"] not in BACKENDS:
        raise UsageError(f"backend: {record['kind']!r} in state.json is not known here; one of {', '.join(BACKENDS)}.")
    backend: Backend = load(BACKENDS, f"{record['kind']}").from_record(record)  # type: ignore[attr-defined]
    return backend
