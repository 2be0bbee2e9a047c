"""What the driver of a job and that of a sweep have in common: how they begin, and how they end whatever happens."""

from __future__ import annotations

import signal
import socket
import sys
import time
import traceback
from abc import ABC, abstractmethod
from types import FrameType
from typing import Any

import psutil

from orchestrator.core.errors import JOB_FAILED, STOPPED, TIMED_OUT, OrchestratorError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule.history import JobHistory
from orchestrator.schedule.mirroring import Mirroring
from orchestrator.spec.job import AnyJobSpec, ScriptJobSpec


class SupersededError(OrchestratorError):
    """Another driver has taken the job over; its record is no longer this one's to write."""


class Driver(ABC):
    """Drives what a run directory describes to its end.

    Args:
        directory: prepared by ``launch``.
        spec: what it describes.
    """

    def __init__(self, directory: RunDirectory, spec: AnyJobSpec) -> None:
        self._directory = directory
        self._spec = spec
        self._has_script = isinstance(spec, ScriptJobSpec)
        self._record: dict[str, Any] | None = None
        self._num_interrupts = 0

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: the first asks the ranks to stop at the next step, the second aborts."""
        self._num_interrupts += 1
        if self._num_interrupts > 1:
            raise KeyboardInterrupt
        self._directory.stop_file.touch()

    def run(self, history: JobHistory) -> int:
        """Drive the job to its end, whose MLflow runs are being opened; returns the exit code."""
        signal.signal(signal.SIGINT, self.interrupt)
        process = psutil.Process()
        driver = {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}
        self._update_state(phase="preparing", reason=None, message=None, driver=driver, started_at=time.time())
        self._record = driver
        mirroring = Mirroring(self._spec.mirror, self._directory)
        mirroring.start()
        try:
            self._connect()
            history.wait_until_open()
            exit_code = self._drive(history)
        except KeyboardInterrupt:
            message = "aborted by a second interrupt" + ("" if self._has_script else "; no checkpoint was written")
            exit_code = self._break_off(history, "stopped", "aborted", message, STOPPED)
        except SupersededError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        except OrchestratorError as error:
            traceback.print_exc()  # for the log; people get the sentence
            reason = "timed_out" if error.exit_code == TIMED_OUT else "could_not_start"
            exit_code = self._break_off(history, "failed", reason, str(error), error.exit_code)
        except Exception as error:
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
            exit_code = self._break_off(history, "failed", "internal_error", message, JOB_FAILED)
        self._close()
        history.close()
        mirroring.close()
        return exit_code

    @abstractmethod
    def _connect(self) -> None:
        """Attach to a cluster, or start a private one."""

    @abstractmethod
    def _drive(self, history: JobHistory) -> int:
        """Do the work, up to the last word in the record; returns the exit code."""

    @abstractmethod
    def _break_off(self, history: JobHistory, phase: str, reason: str, message: str, exit_code: int) -> int:
        """End what goes on and write the last word; returns the exit code."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of what is held on the cluster."""

    def _update_state(self, **fields: Any) -> dict[str, Any]:
        """Merge fields into the state, and return the whole; errors as of ``_check_record``."""
        self._check_record()
        return self._directory.update_state(**fields)

    def _check_record(self) -> None:
        """Make sure that the record is still this driver's to write.

        Raises:
            SupersededError: where another driver has taken the job over.
        """
        if self._record is not None and self._directory.read_state().get("driver") != self._record:
            raise SupersededError(f"{self._directory.name} has another driver now; this one ends.")

    @property
    def _stop_requested(self) -> bool:
        return self._directory.stop_file.exists()
