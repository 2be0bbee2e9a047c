"""The job's MLflow run, as the driver sees it: opened while Ray starts, closed with the truth."""

from __future__ import annotations

import getpass
import json
import os
import tempfile
import threading
from pathlib import Path

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory
from orchestrator.spec.job import AnyJobSpec
from orchestrator.tracking.environment import describe_environment
from orchestrator.tracking.run import finish_run, flatten, log_artifact, open_run, reopen_run, set_tags
from orchestrator.tracking.sender import replay
from orchestrator.tracking.uri import redact, resolve_tracking_uri

_REPLAY_TIMEOUT_S = 30.0


def _source_tags() -> dict[str, str]:
    """What MLflow's own client would say of a run: whose it is and what made it."""
    return {"mlflow.user": getpass.getuser(), "mlflow.source.name": "orchestrator", "mlflow.source.type": "JOB"}


class JobHistory:
    """One MLflow run for the whole life of the job, over all its attempts.

    Args:
        spec: the job.
        directory: its run directory; the run's id is kept in its state.
    """

    def __init__(self, spec: AnyJobSpec, directory: RunDirectory) -> None:
        self._spec = spec
        self._directory = directory
        self.uri: str = resolve_tracking_uri(spec.tracking.uri, os.environ, directory.root.parent)
        self.run_id: str = directory.read_state().get("mlflow_run_id") or ""
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._open, name="open-mlflow-run", daemon=True)

    def open_in_background(self) -> None:
        """Start opening the run: importing MLflow and making its database takes as long as starting Ray."""
        self._thread.start()

    def wait_until_open(self) -> None:
        """Wait for the run and note its id in the state.

        Raises:
            OrchestratorError: where a new run could not be created. A run that exists need not answer: the metrics
                are spilled and sent later.
        """
        self._thread.join()
        if self._error is not None and not (self.run_id and isinstance(self._error, OrchestratorError)):
            raise self._error
        if self._error is not None:
            self._directory.event("tracking_out_of_reach", {"message": str(self._error)})
        self._directory.update_state(
            mlflow_run_id=self.run_id, tracking_uri=self.uri if redact(self.uri) == self.uri else None
        )

    def close(self) -> None:
        """Send what is left, store the artifacts and give the run the job's status. Never raises."""
        if not self.run_id:
            return
        phase = self._directory.read_state()["phase"]
        num_unsent = replay(self._directory, self.uri, self.run_id, timeout_s=_REPLAY_TIMEOUT_S)
        if num_unsent:
            self._directory.event("metrics_unsent", {"lines": num_unsent})
        try:
            for path in (self._directory.events_file, self._directory.metrics_file):
                if path.exists():
                    log_artifact(self.uri, self.run_id, path)
            if phase in TERMINAL_PHASES:
                finish_run(self.uri, self.run_id, phase)
        except OrchestratorError as error:
            self._directory.event("tracking_out_of_reach", {"message": str(error)})

    def _open(self) -> None:
        try:
            if self.run_id:
                reopen_run(self.uri, self.run_id)
                self._tag_attempt()
                return
            self.run_id = open_run(
                self.uri,
                self._spec.tracking.experiment or self._spec.name,
                self._spec.name,
                {**_source_tags(), **self._spec.tracking.tags},
                flatten(self._spec.model_dump(mode="json")),
                artifact_root=self._directory.root.parent / "mlartifacts",
            )
            self._tag_attempt()
            log_artifact(self.uri, self.run_id, self._directory.resolved_spec)
            with tempfile.TemporaryDirectory() as folder:
                environment = Path(folder) / "environment.json"
                environment.write_text(json.dumps(describe_environment(), indent=2), encoding="utf-8")
                log_artifact(self.uri, self.run_id, environment)
        except Exception as error:
            self._error = error

    def _tag_attempt(self) -> None:
        tags = {"run_directory": str(self._directory.root), "workers": str(self._spec.resources.workers)}
        set_tags(self.uri, self.run_id, tags)
