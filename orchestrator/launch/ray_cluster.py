"""A Ray cluster that runs already, and the commands that are run on its head."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from orchestrator.core.errors import OutOfReachError
from orchestrator.launch.ray_connection import as_iterator, open_client, ray_errors, resolve_address

RECONNECT_INTERVAL_S = 1.0
RECONNECT_LIMIT_S = 60.0
LIVE_STATUSES = ("PENDING", "RUNNING")


class RayCluster:
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
        """What a command prints, from its beginning to its end.

        Raises:
            OutOfReachError: if the cluster does not answer for ``RECONNECT_LIMIT_S`` seconds.
        """
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

    def _follow(self, submission_id: str) -> Iterator[str]:
        """Ray tells a log from its beginning on each connection; what was told before is skipped."""
        told_length = 0
        last_contact = time.monotonic()
        while True:
            length = 0
            try:
                # Asked before reading: a job that had ended by then has no more to say than what is read now.
                is_over = self.status(submission_id) not in LIVE_STATUSES
                for text in as_iterator(self._client.tail_job_logs(submission_id)):
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
        return open_client(self.address)

    def _errors(self) -> AbstractContextManager[None]:
        return ray_errors(self.address)
