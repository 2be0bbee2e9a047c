"""The driver of one trial of a sweep, as the sweep's driver starts and watches it: a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from orchestrator.core.environment import SUBMISSION_VARIABLE
from orchestrator.core.run_directory import RunDirectory

DRIVER_MODULE = "orchestrator.schedule.main"


class TrialDriver:
    """A running driver; it ends, at once and without a checkpoint, when the process that holds this object ends.

    Args:
        directory: the trial's run directory.
        has_room: the Ray around is private, and the sweep has seen to it that the trial fits.
        environ: of the driver.
    """

    def __init__(self, directory: RunDirectory, *, has_room: bool, environ: Mapping[str, str]) -> None:
        self.directory = directory
        directory.stop_file.unlink(missing_ok=True)
        directory.logs.mkdir(exist_ok=True)
        command = [sys.executable, "-P", "-m", DRIVER_MODULE, str(directory.root), "--watch-parent"]
        with directory.driver_log.open("ab") as log:
            # Of the sweep's own session: what ends that as a whole ends this too.
            self._process = subprocess.Popen(
                [*command, *(["--has-room"] * has_room)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory.code,
                env={**environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone, and no other writes to the run directory."""
        if self._process.poll() is None:
            return False
        self._close()
        return True

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        code = self._process.returncode
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def ask_to_stop(self) -> None:
        """Have the trial stop after its current step, with a checkpoint; a reason that stands already stays."""
        self.directory.stop_file.touch()

    def kill(self) -> None:
        """End the driver at once and without a checkpoint."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        assert self._process.stdin is not None  # it is a pipe
        with suppress(BrokenPipeError):
            self._process.stdin.close()


def environment_of_trials(address: str | None) -> dict[str, str]:
    """This process's environment, with the private Ray that trials attach to, where there is one.

    Without the submission that this process is of: trials are not submitted to a cluster, their sweep is.
    """
    own = {name: value for name, value in os.environ.items() if name != SUBMISSION_VARIABLE}
    return {**own, **({"RAY_ADDRESS": address} if address else {})}
