"""Reads what a run has of its metrics, whoever logged them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.tracking.client import mlflow_errors, open_client

SYSTEM_PREFIX = "system/"
"""Of metrics that tell of a node, not of the training."""


@dataclass(frozen=True, slots=True)
class LoggedPoint:
    """One value of a metric."""

    step: int
    time_s: float
    """Seconds since 1970."""
    value: float


def newest_points(uri: str, run_id: str) -> dict[str, LoggedPoint]:
    """The newest value of every metric of a run, those of the system left out; one request, however many there are.

    Raises:
        UsageError: where the run was deleted or never existed.
        OutOfReachError: where MLflow does not answer.
    """
    with mlflow_errors(uri, f"tell of run {run_id}"):
        metrics = open_client(uri).get_run(run_id).data.to_proto().metrics
    return {metric.key: _point(metric) for metric in metrics if not metric.key.startswith(SYSTEM_PREFIX)}


def history_of(uri: str, run_id: str, metric: str) -> list[LoggedPoint]:
    """All values of one metric of a run, in the order of time.

    Raises:
        UsageError: where the run was deleted or never existed.
        OutOfReachError: where MLflow does not answer.
    """
    with mlflow_errors(uri, f"tell of run {run_id}"):
        points = [_point(point) for point in open_client(uri).get_metric_history(run_id, metric)]
    return sorted(points, key=lambda point: point.time_s)


def _point(metric: Any) -> LoggedPoint:
    return LoggedPoint(int(metric.step), metric.timestamp / 1000, float(metric.value))
