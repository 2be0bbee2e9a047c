"""Jobs whose driver is a child process of the command that runs them, with a private Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from orchestrator.core.errors import JOB_FAILED, STOPPED
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory
from orchestrator.launch.backends import Vitals
from orchestrator.launch.environment import job_environment
from orchestrator.launch.lost import declare_lost
from orchestrator.launch.prepare import PreparedJob
from orchestrator.launch.processes import Liveness, interrupt, liveness

DRIVER_MODULE = "orchestrator.schedule.main"
POLL_INTERVAL_S = 0.2


class LocalDriver:
    """A running driver. It ends, at once and without a checkpoint, when the process that holds this object ends.

    Args:
        process: The driver, leader of its own session, with an open pipe as its standard input.
        run_directory: The job.
    """

    def __init__(self, process: subprocess.Popen[bytes], run_directory: RunDirectory) -> None:
        self.run_directory = run_directory
        self.log_file = run_directory.driver_log
        self._process = process
        self._was_killed = False

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def interrupt(self) -> None:
        """Ask for an end: the first time with a checkpoint, the second time at once."""
        self._process.send_signal(signal.SIGINT)

    def poll(self) -> int | None:
        """The exit code, as from ``wait``, or None while the driver runs."""
        return None if self._process.poll() is None else self._settle()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; a job whose driver died without a last word is then marked as failed.

        Returns:
            The exit code of the command line, also for a driver that died: 3 if it was killed or interrupted, else 1.

        Raises:
            TimeoutError: if the driver still runs after ``timeout_s`` seconds.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the driver of {self.run_directory.name} still runs after {timeout_s} s") from None
        return self._settle()

    def kill(self) -> None:
        """End the driver and what it started, at once and without a checkpoint; the job is then stopped."""
        self._was_killed = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no driver behind."""
        if self.poll() is None:
            self.kill()

    def _settle(self) -> int:
        if self._process.stdin is not None:
            self._process.stdin.close()
        code = self._process.returncode
        stopped = self._was_killed or code == -signal.SIGINT
        if self.run_directory.read_state()["phase"] not in TERMINAL_PHASES:
            explanation = f"the driver (pid {self.pid}) {_ending(code)}"
            declare_lost(self.run_directory, explanation, phase="stopped" if stopped else "failed")
        if code >= 0:
            return code
        return STOPPED if stopped else JOB_FAILED


class LocalBackend:
    """Drivers on this host; ``logs/driver.log`` holds what they print."""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The backend of a recorded job; all local jobs have the same."""
        return cls()

    def start(self, prepared: PreparedJob, environ: Mapping[str, str] = os.environ) -> LocalDriver:
        """Start the driver in the folder of the job's code.

        The standard input of the driver is a pipe that only the calling process holds, so that even ``kill -9`` of
        that process ends the job.
        """
        run_directory = prepared.run_directory
        run_directory.update_state(backend={"kind": "local"})
        run_directory.logs.mkdir(exist_ok=True)
        with run_directory.driver_log.open("ab") as log:
            process = subprocess.Popen(
                driver_command(prepared),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=run_directory.code,
                env=job_environment(prepared.spec, environ) | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        return LocalDriver(process, run_directory)

    def vitals(self, run_directory: RunDirectory, state: Mapping[str, Any]) -> Vitals:
        """Look at the driver's process, or at the submitter's as long as there is no driver."""
        role = "driver" if state.get("driver") else "submitter"
        record = state.get(role)
        alive = liveness(record, str(run_directory.root))
        if role == "submitter" and state["phase"] in TERMINAL_PHASES:
            alive = Liveness.GONE
        name = f"its {role} (pid {record['pid']} on {record['host']})" if record else "its submitter"
        clauses = {
            Liveness.ALIVE: "runs",
            Liveness.GONE: "ended without a last word",
            Liveness.UNKNOWN: "cannot be seen from this host",
        }
        return Vitals(liveness=alive, explanation=f"{name} {clauses[alive]}")

    def stop(self, run_directory: RunDirectory, state: Mapping[str, Any]) -> None:
        """Interrupt the driver if it is on this host; otherwise it finds the stop file at its next step."""
        if not interrupt(state.get("driver"), str(run_directory.root)):
            run_directory.stop_file.touch()

    def logs(self, run_directory: RunDirectory, state: Mapping[str, Any], *, follow: bool) -> Iterator[str]:
        """The text of ``logs/driver.log``."""

        def is_over() -> bool:
            now = run_directory.read_state()
            return now.get("phase") in TERMINAL_PHASES or self.vitals(run_directory, now).liveness is Liveness.GONE

        return follow_file(run_directory.driver_log, is_over if follow else lambda: True)


def start_local(prepared: PreparedJob, environ: Mapping[str, str] = os.environ) -> LocalDriver:
    """Run a prepared job here and now; see ``LocalBackend.start``."""
    return LocalBackend().start(prepared, environ)


def driver_command(prepared: PreparedJob) -> list[str]:
    """The command line of the driver; a resumed job has it find its own checkpoints.

    ``-P`` keeps files of the job from shadowing the standard library's.
    """
    return [sys.executable, "-P", "-m", DRIVER_MODULE, str(prepared.run_directory.root), "--embedded", "--watch-parent"]


def follow_file(path: Path, is_over: Callable[[], bool]) -> Iterator[str]:
    """Yield what is in the file and what is added, until ``is_over`` was true before a read that found nothing."""
    position = 0
    while True:
        over = is_over()
        text = _read_from(path, position)
        position += len(text)
        if text:
            yield text.decode(errors="replace")
        elif over:
            return
        else:
            time.sleep(POLL_INTERVAL_S)


def _read_from(path: Path, position: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as stream:
        stream.seek(position)
        return stream.read()


def _ending(return_code: int) -> str:
    if return_code < 0:
        return f"was ended by {signal.Signals(-return_code).name}"
    return f"ended with exit code {return_code} and without a last word"
