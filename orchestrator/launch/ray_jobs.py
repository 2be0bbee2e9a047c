"""Jobs whose driver is a Ray Job on a cluster that runs already.

The storage folder must be the same path on this machine and on every node of the cluster: the driver and the workers
read the job from there and write its record there.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.core.environment import SUBMISSION_VARIABLE
from orchestrator.core.errors import OrchestratorError, OutOfReachError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.backends import Vitals
from orchestrator.launch.prepare import PreparedJob
from orchestrator.launch.processes import Liveness, liveness
from orchestrator.launch.ray_cluster import LIVE_STATUSES, RayCluster
from orchestrator.launch.ray_entrypoint import entrypoint, runtime_environment
from orchestrator.launch.trials import close_trials
from orchestrator.launch.vital_signs import unknown_to_cluster, without_cluster

PHASES_OF_ENDS = {"SUCCEEDED": "failed", "FAILED": "failed", "STOPPED": "stopped"}
"""Ray's final status -> phase of a job whose driver wrote none: a driver that succeeds says so itself."""


class RayJobs(RayCluster):
    """A cluster as the backend of jobs."""

    def start(self, prepared: PreparedJob, environ: Mapping[str, str] = os.environ) -> str:
        """Submit a prepared job and return its submission id, ``<name>-a<number of the submission>``.

        Raises:
            OutOfReachError: if the cluster does not take it.
            UsageError: if the environment lacks something; in both cases the job is failed, and can be resumed.
        """
        run_directory = prepared.run_directory
        number = run_directory.read_state().get("submissions", 0) + 1
        submission_id = f"{prepared.spec.name}-a{number}"
        try:
            variables = runtime_environment(prepared.spec, environ)
            if self.status(submission_id) != "UNKNOWN":
                # Another storage has a job of this name on the same cluster.
                submission_id += f"-{uuid.uuid4().hex[:6]}"
            # Recorded first: from its submission on, only the driver writes the state.
            record = {"kind": "ray_jobs", "address": self.address, "submission_id": submission_id}
            run_directory.update_state(backend=record, submissions=number)
            with self._errors():
                self._client.submit_job(
                    entrypoint=entrypoint(run_directory),
                    submission_id=submission_id,
                    runtime_env={
                        "working_dir": str(run_directory.code),
                        "env_vars": {**variables, SUBMISSION_VARIABLE: submission_id},
                    },
                    metadata={"name": prepared.spec.name},
                )
        except OrchestratorError as error:
            now = time.time()
            run_directory.update_state(phase="failed", reason="submission_failed", message=str(error), finished_at=now)
            close_trials(run_directory, "failed", now)
            raise
        return submission_id

    def vitals(self, run_directory: RunDirectory, state: Mapping[str, Any]) -> Vitals:
        """Ask the cluster; where it knows nothing or does not answer, a job that has long been silent is gone."""
        submission_id = state["backend"]["submission_id"]
        if submission_id is None:
            alive = liveness(state.get("submitter"), str(run_directory.root))
            return Vitals(liveness=alive, explanation="the command that was to submit it")
        try:
            status, reason = self._status_and_reason(submission_id)
        except OutOfReachError as error:
            return without_cluster(run_directory, state, str(error))
        if status in LIVE_STATUSES:
            return Vitals(liveness=Liveness.ALIVE, explanation=f"Ray job {submission_id} is {status}")
        if status == "UNKNOWN":
            explanation = f"the cluster at {self.address} does not know Ray job {submission_id}"
            return unknown_to_cluster(run_directory, state, explanation)
        return Vitals(
            liveness=Liveness.GONE,
            explanation=f"Ray job {submission_id} ended as {status} without a last word of the driver{reason}",
            ended_as=PHASES_OF_ENDS[status],
        )

    def stop(self, run_directory: RunDirectory, state: Mapping[str, Any]) -> None:
        """Let Ray interrupt the driver; a driver that has not started yet finds the stop file.

        Raises:
            OutOfReachError: if the cluster does not answer; the stop file is there all the same.
        """
        run_directory.stop_file.touch()
        if state["backend"]["submission_id"] is not None:
            with self._errors():
                self._client.stop_job(state["backend"]["submission_id"])

    def logs(self, run_directory: RunDirectory, state: Mapping[str, Any], *, follow: bool) -> Iterator[str]:
        """The driver's output as the cluster has it, with what Ray printed while it set up the environment.

        Raises:
            OutOfReachError: if the cluster does not answer, while following for ``RECONNECT_LIMIT_S`` seconds.
        """
        submission_id = state["backend"]["submission_id"]
        if submission_id is None:
            return
        if follow:
            yield from self._follow(submission_id)
        else:
            with self._errors():
                yield self._client.get_job_logs(submission_id)
