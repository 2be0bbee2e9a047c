"""The driver's side of its job's MLflow runs: a process beside it opens and closes them (``job_runs.py``).

Not the driver itself: MLflow takes two seconds to import and so does Ray, on one core one after the other and on two at
the same time. So the process is started before the driver's own imports.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from orchestrator.core import errors
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.job import AnyJobSpec
from orchestrator.tracking.companion import start_module
from orchestrator.tracking.uri import redact, resolve_tracking_uri

MODULE = "orchestrator.schedule.job_runs"


class JobHistory:
    """The MLflow runs of a job over all its attempts, and of the trials that train on its workers.

    Args:
        spec: the job.
        directory: its run directory; the run's id is kept in its state, those of trials in theirs.
    """

    def __init__(self, spec: AnyJobSpec, directory: RunDirectory) -> None:
        self._directory = directory
        self.uri: str = resolve_tracking_uri(spec.tracking.uri, os.environ, directory.storage)
        self.run_id: str = directory.read_state().get("mlflow_run_id") or ""
        """The job's MLflow run; empty before there is one."""
        self._process: subprocess.Popen[str] | None = None

    def open_in_background(self) -> None:
        """Start opening the runs."""
        self._process = self._start()

    def wait_until_open(self) -> None:
        """Wait for the runs and note their ids in the states.

        Raises:
            OrchestratorError: where a new run could not be created. A run that exists need not answer: the metrics
                are spilled and sent later.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise OrchestratorError("the MLflow run could not be opened: see logs/driver.log of the run directory")
        self.run_id = note_opened(self._directory, self.uri, json.loads(answer))

    def close(self) -> None:
        """Have what is left sent, and each run given the status of its job or trial. Never raises."""
        if self._process is not None and self._process.poll() is not None:
            self._process.communicate()  # closes its pipes
            self._process = None
        if self._process is None:
            self._process = self._start("--close")
        self._process.communicate("close\n")

    def _start(self, *options: str) -> subprocess.Popen[str]:
        return start_module(
            MODULE,
            str(self._directory.root),
            *options,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is the driver's to answer; the end of the pipe ends this process too.
        )


def note_opened(directory: RunDirectory, uri: str, answer: dict[str, Any]) -> str:
    """Write down which runs a job has; returns the id of its own.

    Args:
        directory: of the job.
        uri: of MLflow.
        answer: ``ids`` of the job's run and those of its trials, and what the ``problem`` was.

    Raises:
        OrchestratorError: the problem, where it leaves a run missing.
    """
    ids: list[str] = answer["ids"]
    for owner, run_id in zip([directory, *directory.trials], ids, strict=False):
        owner.update_state(mlflow_run_id=run_id or None)
    directory.update_state(tracking_uri=uri if redact(uri) == uri else None)
    if (problem := answer["problem"]) is not None:
        if not all(ids):
            raise getattr(errors, problem["kind"])(problem["message"])
        directory.event("tracking_out_of_reach", {"message": problem["message"]})
    return ids[0]
