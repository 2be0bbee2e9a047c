"""What scripts have logged to their MLflow runs, as series: nothing else is on record of how they train."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from orchestrator.core.errors import OrchestratorError, OutOfReachError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.lost import recorded_tracking_uri
from orchestrator.launch.series import Series
from orchestrator.tracking.logged import LoggedPoint, history_of, newest_points
from orchestrator.tracking.uri import check_reachable

_REACH_TIMEOUT_S = 5.0


class ScriptMetrics:
    """Reads the runs of jobs with a script; an MLflow that does not answer is not asked again."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        """Why metrics could not be read, each reason once."""
        self._silent: set[str] = set()
        """Addresses that do not answer."""

    def newest(self, run: RunDirectory, state: Mapping[str, Any]) -> dict[str, Series]:
        """Every metric of a job or trial, each with its newest value only; empty where that cannot be read.

        Args:
            run: its run directory.
            state: its state.
        """
        uri, run_id = recorded_tracking_uri(run, state, os.environ), state.get("mlflow_run_id")
        if run_id is None or uri in self._silent:
            return {}
        try:
            check_reachable(uri, _REACH_TIMEOUT_S)
            return {name: _series([point]) for name, point in newest_points(uri, run_id).items()}
        except OrchestratorError as error:
            self._note(uri, error)
            return {}

    def completed(
        self, run: RunDirectory, state: Mapping[str, Any], series: Mapping[str, Series], names: Collection[str]
    ) -> dict[str, Series]:
        """The same series, with all values of some, and with ``time`` as far as these tell of it.

        Args:
            run: the run directory of the job or trial.
            state: its state.
            series: as ``newest`` gave them.
            names: of metrics, which the script need not have logged.
        """
        uri = recorded_tracking_uri(run, state, os.environ)
        points: dict[str, list[LoggedPoint]] = {}
        try:
            for name in names:
                if name in series:
                    points[name] = history_of(uri, state["mlflow_run_id"], name)
        except OrchestratorError as error:
            self._note(uri, error)
        whole = {name: _series(some) for name, some in points.items()}
        clock = {point.step: point.time_s for some in points.values() for point in some}
        times = {"time": _series(LoggedPoint(step, time_s, time_s) for step, time_s in clock.items())} if clock else {}
        return {**times, **series, **whole}

    def _note(self, uri: str, error: OrchestratorError) -> None:
        if isinstance(error, OutOfReachError):
            self._silent.add(uri)
        if str(error) not in self.failures:
            self.failures.append(str(error))


def _series(points: Iterable[LoggedPoint]) -> Series:
    """Points as a series. A script that started again may have logged a step twice; the later value counts."""
    values = dict(sorted({point.step: point.value for point in points}.items()))
    finite = {step: value for step, value in values.items() if math.isfinite(value)}
    lost = [step for step in values if step not in finite]
    return Series(
        steps=np.array([*finite], np.int64),
        values=np.array([*finite.values()], np.float64),
        num_logged=len(values),
        num_not_finite=len(lost),
        first_not_finite=lost[0] if lost else None,
    )
