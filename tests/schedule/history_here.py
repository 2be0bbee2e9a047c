"""A job's MLflow runs, real ones, in this process: one of their own for each of many tests would take minutes."""

from __future__ import annotations

from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule.history import JobHistory, note_opened
from orchestrator.schedule.job_runs import JobRuns
from orchestrator.spec.job import AnyJobSpec


class HistoryHere(JobHistory):
    """See ``JobHistory``."""

    def __init__(self, spec: AnyJobSpec, directory: RunDirectory) -> None:
        super().__init__(spec, directory)
        self._runs = JobRuns(spec, directory)

    def open_in_background(self) -> None:
        pass

    def wait_until_open(self) -> None:
        self.run_id = note_opened(self._directory, self.uri, self._runs.open())

    def close(self) -> None:
        self._runs.close()
