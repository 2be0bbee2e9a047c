"""A rank's script as a process: started, watched and ended with everything that it started. Knows no Ray."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STOP_GRACE_S = 90.0
"""Seconds between SIGTERM and SIGKILL. Ray kills the driver of a stopped job after 120 s; MLflow needs the rest."""
_POLL_S = 0.2
_TAIL_BYTES = 65536
_MAX_CHARACTERS = 300

# The guard leads the process group that the script runs in, and reads from a pipe whose other end only this process
# holds. However this process ends, kill -9 included, the pipe closes and the guard kills the whole group. The kernel's
# PR_SET_PDEATHSIG would reach the script alone, not its loader processes, and would follow the thread that started it.
_GUARD = ("/bin/sh", "-c", "trap '' TERM INT HUP; read -r _; kill -KILL 0")
_PREFIX = re.compile(r"^\[rank\d+\]: ?")  # torch puts it before each line of a traceback


@dataclass(frozen=True, slots=True)
class ScriptEnd:
    """How a script ended."""

    exit_code: int
    """As ``subprocess`` has it: negative is the signal that ended it."""
    stopped: bool
    """Whether somebody had asked for the end."""
    killed: bool = False
    """Whether it outlived its grace."""

    @property
    def shell_code(self) -> int:
        """The exit code as shells have it: 128 + n where signal n ended it."""
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code

    def __str__(self) -> str:
        if self.killed:
            return "did not end in time after SIGTERM and was killed"
        if self.exit_code < 0:
            return f"was ended by {signal.Signals(-self.exit_code).name}"
        return f"ended with exit code {self.exit_code}"


def run_script(
    command: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    log: Path,
    stop_requested: Callable[[], bool],
    grace_s: float = STOP_GRACE_S,
) -> ScriptEnd:
    """Run a command to its end; neither it nor anything that it started outlives this call or this process.

    Args:
        command: program and arguments.
        folder: where it runs.
        env: its whole environment.
        log: takes its stdout and stderr, appended.
        stop_requested: asked several times a second; once it says yes, the process group gets SIGTERM.
        grace_s: seconds from there to SIGKILL.

    Raises:
        OSError: where the command cannot be started.
    """
    guard = subprocess.Popen(_GUARD, stdin=subprocess.PIPE, process_group=0)
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=guard.pid,
            )
        return _watch(process, guard.pid, stop_requested, grace_s)
    finally:
        os.killpg(guard.pid, signal.SIGKILL)
        guard.communicate()


def _watch(
    process: subprocess.Popen[bytes], group: int, stop_requested: Callable[[], bool], grace_s: float
) -> ScriptEnd:
    ended = threading.Event()

    def wait() -> None:
        process.wait()
        ended.set()

    # A thread that waits knows of the end at once; the first of several failing ranks is the one to blame.
    threading.Thread(target=wait, name="wait-for-script", daemon=True).start()
    while not ended.wait(_POLL_S):
        if stop_requested():
            os.killpg(group, signal.SIGTERM)
            if killed := not ended.wait(grace_s):
                os.killpg(group, signal.SIGKILL)
                ended.wait()
            return ScriptEnd(process.returncode, stopped=True, killed=killed)
    # A script may fail because its neighbor was stopped a moment before.
    return ScriptEnd(process.returncode, stopped=stop_requested())


def last_words(log: Path) -> str:
    """The line of a log that tells best why the process ended: that of the last exception, else the last line."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = [_PREFIX.sub("", line) for line in stream.read().decode(errors="replace").splitlines()]
    lines = [line for line in lines if line.strip()]
    tracebacks = [index for index, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    after = lines[tracebacks[-1] + 1 :] if tracebacks else []
    exception = next((line for line in after if not line.startswith(" ")), None)
    return (exception or (lines[-1] if lines else "")).strip()[:_MAX_CHARACTERS]
