"""Jobs whose driver is a Ray Job on a cluster that runs already. The only file of this package that imports Ray.

The storage folder must be the same path on this machine and on every node of the cluster: the driver and the workers
read the job from there and write its record there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from orchestrator.core.environment import SUBMISSION_VARIABLE
from orchestrator.core.errors import OrchestratorError, OutOfReachError, UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.backends import Vitals
from orchestrator.launch.prepare import PreparedJob
from orchestrator.launch.processes import Liveness, liveness
from orchestrator.launch.ray_entrypoint import entrypoint, runtime_environment
from orchestrator.launch.trials import close_trials
from orchestrator.launch.vital_signs import unknown_to_cluster, without_cluster

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 60.0
RECONNECT_INTERVAL_S = 1.0
RECONNECT_LIMIT_S = 60.0
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Ray's loggers that set their own level."""
LIVE_STATUSES = ("PENDING", "RUNNING")
PHASES_OF_ENDS = {"SUCCEEDED": "failed", "FAILED": "failed", "STOPPED": "stopped"}
"""Ray's final status -> phase of a job whose driver wrote none: a driver that succeeds says so itself."""


def resolve_address(flag: str | None, environ: Mapping[str, str]) -> str:
    """The URL of the cluster's dashboard: flag, else RAY_API_SERVER_ADDRESS, else RAY_ADDRESS.

    Raises:
        UsageError: if there is none, or it is not an http address.
    """
    candidates = {"--address": flag, **{name: environ.get(name) for name in ADDRESS_VARIABLES}}
    given = {source: value for source, value in candidates.items() if value}
    if not given:
        raise UsageError(f"--address: which cluster? Give http://HEAD:8265, or set {ADDRESS_VARIABLES[0]}.")
    source, address = next(iter(given.items()))
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"{source}: {address} is not the dashboard's URL; write http://HEAD:8265.")
    return address.rstrip("/")


def dashboard_here() -> str:
    """URL of the dashboard of the cluster that this process's node belongs to, as its nodes reach it.

    Raises:
        OutOfReachError: where there is no cluster.
    """
    import ray

    try:
        with ray.init(address="auto", log_to_driver=False, logging_level="ERROR") as context:
            return f"http://{context.dashboard_url}"
    except ConnectionError as error:
        raise OutOfReachError(f"No Ray cluster answers here ({error}).") from None


class RayJobs:
    """The Jobs API of one cluster.

    Tokens are Ray's own affair: RAY_AUTH_MODE=token makes the client send RAY_AUTH_TOKEN or the token file.

    Args:
        address: URL of the dashboard; None takes the environment's, as ``resolve_address``.
    """

    def __init__(self, address: str | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self.address = resolve_address(address, environ)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The cluster that a job was submitted to."""
        return cls(record["address"])

    def connect(self) -> None:
        """Make sure that the cluster answers.

        Raises:
            OutOfReachError: after about ``CONNECT_TIMEOUT_S`` seconds if it does not, or does not let us in.
        """
        with self._errors():
            _ = self._client

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

    def status(self, submission_id: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; UNKNOWN where the cluster has no such job (any more).

        Raises:
            OutOfReachError: if the cluster does not answer.
        """
        return self._status_and_reason(submission_id)[0]

    def run_command(self, command: str, name: str, timeout_s: float) -> str:
        """Run a short shell command on the head and return what it printed; the cluster forgets it afterwards.

        Args:
            command: as ``ray_entrypoint`` makes them.
            name: what the cluster's list of jobs shows.
            timeout_s: longest wait for its end.

        Raises:
            OutOfReachError: if the cluster does not answer, or the command does not end well within the time.
        """
        submission_id = f"{name}-{uuid.uuid4().hex[:8]}"
        deadline = time.monotonic() + timeout_s
        with self._errors():
            self._client.submit_job(entrypoint=command, submission_id=submission_id, metadata={"name": name})
        while (status := self.status(submission_id)) in LIVE_STATUSES and time.monotonic() < deadline:
            time.sleep(RECONNECT_INTERVAL_S)
        with self._errors():
            text: str = self._client.get_job_logs(submission_id)
            if status in LIVE_STATUSES:
                self._client.stop_job(submission_id)
            else:
                self._client.delete_job(submission_id)
        if status != "SUCCEEDED":
            last = (text.strip().splitlines() or ["it printed nothing"])[-1]
            raise OutOfReachError(f"{self.address}: Ray job {submission_id} is {status}: {last}")
        return text

    def begin_command(self, command: str, name: str, working_dir: Path | None, variables: Mapping[str, str]) -> str:
        """Start a shell command on the head and return its submission id.

        Args:
            command: as ``ray_entrypoint`` makes them.
            name: what the cluster's list of jobs shows, and the beginning of the id.
            working_dir: a folder that travels, in which it runs.
            variables: of its environment; everybody on the cluster can read them.

        Raises:
            OutOfReachError: if the cluster does not take it.
        """
        submission_id = f"{name}-{uuid.uuid4().hex[:8]}"
        # Ctrl-C here is one there.
        environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGINT", **variables}}
        if working_dir is not None:
            environment["working_dir"] = str(working_dir)
        with self._errors():
            self._client.submit_job(
                entrypoint=command, submission_id=submission_id, runtime_env=environment, metadata={"name": name}
            )
        return submission_id

    def output(self, submission_id: str) -> Iterator[str]:
        """What a command prints, from its beginning to its end; arguments and errors as of ``logs``."""
        return self._follow(submission_id)

    def exit_code(self, submission_id: str) -> int | None:
        """Of a command that has ended; None where it was interrupted."""
        with self._errors():
            code: int | None = self._client.get_job_info(submission_id).driver_exit_code
        return code

    def interrupt_command(self, submission_id: str) -> None:
        """What Ctrl-C would be at its terminal."""
        with self._errors():
            self._client.stop_job(submission_id)

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

    def _follow(self, submission_id: str) -> Iterator[str]:
        """Ray tells a log from its beginning on each connection; what was told before is skipped."""
        told_length = 0
        last_contact = time.monotonic()
        while True:
            length = 0
            try:
                # Asked before reading: a job that had ended by then has no more to say than what is read now.
                is_over = self.status(submission_id) not in LIVE_STATUSES
                for text in _drive(self._client.tail_job_logs(submission_id)):
                    new = text[max(0, told_length - length) :]
                    length += len(text)
                    told_length = max(told_length, length)
                    last_contact = time.monotonic()
                    if new:
                        yield new
                if is_over:
                    return
                last_contact = time.monotonic()
            except (OutOfReachError, RuntimeError, OSError) as error:
                if time.monotonic() - last_contact > RECONNECT_LIMIT_S:
                    raise OutOfReachError(f"{self.address}: the log of {submission_id} broke off: {error}") from None
            time.sleep(RECONNECT_INTERVAL_S)

    def _status_and_reason(self, submission_id: str) -> tuple[str, str]:
        """The status, and the last line of what Ray says about a failure."""
        with self._errors():
            try:
                details = self._client.get_job_info(submission_id)
            except RuntimeError as error:
                if "status code 404" not in str(error):
                    raise
                return "UNKNOWN", ""
        lines = (details.message or "").strip().splitlines() if details.status == "FAILED" else []
        return str(details.status.value), f": {lines[-1]}" if lines else ""

    @cached_property
    def _client(self) -> Any:
        client_class = _timed_client_class()
        with _address_in_environment(self.address):
            return client_class(self.address)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What Ray's client raises, as one sentence that names the address and says how to mend it."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise OutOfReachError(
                f"{self.address}: the Ray cluster asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH to the cluster's token."
            ) from None
        except (ConnectionError, OSError) as error:
            raise OutOfReachError(f"{self.address}: no Ray dashboard answers there: {_first_line(error)}") from None
        except (RuntimeError, ValueError) as error:
            raise OutOfReachError(f"{self.address}: {_first_line(error)}") from None


def _timed_client_class() -> type[Any]:
    """Ray's client, whose requests would otherwise wait without limit, and which would tell about every upload."""
    from ray.job_submission import JobSubmissionClient

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)

    class TimedClient(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **arguments: Any) -> Any:
            answer_s = CONNECT_TIMEOUT_S if endpoint == "/api/version" else REQUEST_TIMEOUT_S
            return super()._do_request(method, endpoint, timeout=(CONNECT_TIMEOUT_S, answer_s), **arguments)

    return TimedClient


@contextmanager
def _address_in_environment(address: str) -> Iterator[None]:
    """Ray's client lets this variable win over its argument; for us the argument wins."""
    name = ADDRESS_VARIABLES[0]
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _drive(texts: AsyncIterator[str]) -> Iterator[str]:
    """An asynchronous iterator as an ordinary one, on an event loop of its own."""
    with asyncio.Runner() as runner:
        while True:
            try:
                yield runner.run(_next(texts))
            except StopAsyncIteration:
                return


async def _next(texts: AsyncIterator[str]) -> str:
    return await anext(texts)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
