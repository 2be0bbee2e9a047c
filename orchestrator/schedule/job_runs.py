"""The MLflow runs of a job and its trials: opened before the first attempt, closed with the truth.

A process of its own beside the driver (``history.py``) does this: importing MLflow takes as long as importing Ray.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.errors import OrchestratorError, OutOfReachError
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory
from orchestrator.spec.job import AnyJobSpec
from orchestrator.spec.load import load_resolved
from orchestrator.spec.sweep import has_separate_trials, trials_of
from orchestrator.tracking.environment import describe_environment
from orchestrator.tracking.run import finish_run, flatten, log_artifact, open_run, reopen_run, set_tags
from orchestrator.tracking.sender import replay
from orchestrator.tracking.uri import resolve_tracking_uri

_REPLAY_TIMEOUT_S = 30.0
PARENT_RUN = "mlflow_parent_run_id"
"""In the state of a trial with a driver of its own: the MLflow run of its sweep."""


def _source_tags() -> dict[str, str]:
    """What MLflow's own client would say of a run: whose it is and what made it."""
    return {"mlflow.user": getpass.getuser(), "mlflow.source.name": "orchestrator", "mlflow.source.type": "JOB"}


@dataclass(slots=True)
class _Run:
    """The MLflow run of a job, or of one trial of its sweep."""

    spec: AnyJobSpec
    directory: RunDirectory
    run_id: str
    """Empty before it is opened."""
    is_over: bool = False
    """Of a trial: whether it had succeeded in an earlier life of its job, and stays as it is."""


class JobRuns:
    """One MLflow run for the whole life of the job, over all its attempts, and below it one for each trial.

    Args:
        spec: the job.
        directory: its run directory; the run's id is kept in its state, those of trials in theirs.
    """

    def __init__(self, spec: AnyJobSpec, directory: RunDirectory) -> None:
        self._spec = spec
        self._directory = directory
        self.uri: str = resolve_tracking_uri(spec.tracking.uri, os.environ, directory.storage)
        self._run = _Run(spec, directory, directory.read_state().get("mlflow_run_id") or "")
        self._trials = _trial_runs(spec, directory)

    def open(self) -> dict[str, Any]:
        """Create the runs, or reopen those that exist.

        Returns:
            ``ids`` of the job's run and of its trials, empty for one that there is not, and the ``problem``: None, or
            its ``kind``, a class of ``core.errors``, and ``message``.
        """
        problem = None
        try:
            self._open()
        except OrchestratorError as error:
            problem = {"kind": type(error).__name__, "message": str(error)}
        return {"ids": [run.run_id for run in (self._run, *self._trials)], "problem": problem}

    def _open(self) -> None:
        new = [run for run in (self._run, *self._trials) if not run.run_id]
        parent = _tags_of_a_trial(self._directory)
        self._open_one(self._run, {"workers": str(self._spec.resources.workers), **parent})
        for number, run in enumerate(self._trials):
            self._open_one(run, {"mlflow.parentRunId": self._run.run_id, "trial": str(number)})
        for run in new:
            log_artifact(self.uri, run.run_id, run.directory.resolved_spec)
        if self._run in new:
            self._log_environment()

    def close(self) -> None:
        """Send what is left, store the artifacts and give each run the status of its job or trial. Never raises."""
        deadline = time.monotonic() + _REPLAY_TIMEOUT_S
        runs = [run for run in (*self._trials, self._run) if run.run_id]
        num_unsent = sum(
            replay(run.directory, self.uri, run.run_id, timeout_s=max(0.0, deadline - time.monotonic())) for run in runs
        )
        if num_unsent:
            self._directory.event("metrics_unsent", {"lines": num_unsent})
        open_since = None
        for run in runs:
            try:
                self._finish(run)
            except OrchestratorError as error:
                self._directory.event("tracking_out_of_reach", {"message": str(error)})
                if isinstance(error, OutOfReachError):
                    open_since = time.time()
                    break
        # Whoever looks at the job later ends what could not be ended now.
        if open_since != self._directory.read_state().get("mlflow_open_since"):
            self._directory.update_state(mlflow_open_since=open_since)

    def _finish(self, run: _Run) -> None:
        for path in (run.directory.events_file, run.directory.metrics_file):
            if path.exists():
                log_artifact(self.uri, run.run_id, path)
        state = run.directory.read_state()
        if state["phase"] in TERMINAL_PHASES:
            finish_run(self.uri, run.run_id, state["phase"], state.get("finished_at"))

    def _open_one(self, run: _Run, tags: Mapping[str, str]) -> None:
        """Create a run or reopen it, and tag it with what this attempt has of its own."""
        if run.is_over:
            return
        if run.run_id:
            reopen_run(self.uri, run.run_id)
        else:
            run.run_id = open_run(
                self.uri,
                self._spec.tracking.experiment or self._spec.name,
                run.spec.name,
                {**_source_tags(), **self._spec.tracking.tags},
                flatten(run.spec.model_dump(mode="json")),
                artifact_root=self._directory.storage / "mlartifacts",
            )
        set_tags(self.uri, run.run_id, {"run_directory": str(run.directory.root), **tags})

    def _log_environment(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            environment = Path(folder) / "environment.json"
            environment.write_text(json.dumps(describe_environment(), indent=2), encoding="utf-8")
            log_artifact(self.uri, self._run.run_id, environment)


def _tags_of_a_trial(directory: RunDirectory) -> dict[str, str]:
    """Where a trial with a driver of its own belongs; empty for every other job."""
    parent = directory.read_state().get(PARENT_RUN)
    return {"mlflow.parentRunId": parent, "trial": directory.name} if parent else {}


def _trial_runs(spec: AnyJobSpec, directory: RunDirectory) -> list[_Run]:
    """The runs of a sweep's trials as their states know them; none for other jobs, and where trials open their own."""
    if not spec.sweep or has_separate_trials(spec):
        return []
    runs = []
    for trial, trial_spec in zip(directory.trials, trials_of(spec), strict=True):
        state = trial.read_state()
        runs.append(_Run(trial_spec, trial, state["mlflow_run_id"] or "", is_over=state["phase"] == "succeeded"))
    return runs


def main() -> None:
    """``python -m orchestrator.schedule.job_runs RUN_DIRECTORY``: opens the runs; closes them when told to.

    Answers with one line of JSON, the ids and what was wrong. A line ``close`` on standard input asks for the end; the
    end of the input without it means that the driver died, and leaves the runs to whoever comes next.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What others print belongs to the log.
    directory = RunDirectory(sys.argv[1])
    runs = JobRuns(load_resolved(directory.resolved_spec), directory)
    if "--close" not in sys.argv:
        print(json.dumps(runs.open()), file=answers, flush=True)
    if sys.stdin.readline() == "close\n":
        runs.close()


if __name__ == "__main__":
    main()
