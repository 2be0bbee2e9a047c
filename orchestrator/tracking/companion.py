"""A helper process beside a worker, where MLflow runs: it starts with the worker, and never outlives it.

Not a thread, because MLflow's work holds the interpreter lock: sending 12 metrics of each step from a thread took a
small CPU training from 5 to 11 ms per step. So a training process never imports mlflow.

The settings go in as one JSON line on standard input, where no process list shows them. A second line, ``stop``, asks
for the end; the end of the input without it means that the worker died, and ends the companion at once.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

POLL_S = 1.0
"""Seconds between two looks whether the worker still lives."""
NICENESS = 5
"""Training goes first where cores are scarce."""

logger = logging.getLogger(__name__)


def start_module(module: str, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
    """Start ``python -m module`` in a process that finds every module that this one finds.

    Args:
        module: its full name.
        arguments: of its command line.
        options: of ``subprocess.Popen``.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    # -P: a file of the job's folder must not stand in for a module of the standard library.
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **options)


class Companion:
    """The worker's side. Never raises: without the process, the worker goes on with one warning in its log.

    Args:
        module: run as ``python -m module``; it calls ``receive_settings`` first.
        settings: JSON values for it.
    """

    def __init__(self, module: str, settings: Mapping[str, Any]) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = start_module(module, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0)
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({**settings, "worker_pid": os.getpid()}).encode() + b"\n")
        except OSError as error:
            logger.warning("%s cannot be started: %s", module, error)

    def stop(self, timeout_s: float) -> None:
        """Ask for the end, wait up to ``timeout_s`` seconds, then kill."""
        if self._process is None:
            return
        try:
            self._process.communicate(b"stop\n", timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def receive_settings() -> tuple[dict[str, Any], threading.Event]:
    """The companion's side: its settings, and an event that is set when it shall come to an end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the worker decides
    os.nice(NICENESS)
    settings: dict[str, Any] = json.loads(_read_line())
    stopped = threading.Event()
    threading.Thread(target=_watch_worker, args=(settings.pop("worker_pid"), stopped), daemon=True).start()
    return settings, stopped


def _watch_worker(worker_pid: int, stopped: threading.Event) -> None:
    # Both signs are needed: loader processes may hold the pipe open for some time after the worker died.
    while os.getppid() == worker_pid:
        if stopped.is_set():
            time.sleep(POLL_S)
        elif select.select([0], [], [], POLL_S)[0]:
            if _read_line() != "stop":
                break
            stopped.set()
    os._exit(1)


def _read_line() -> str:
    """One line of standard input, byte by byte, so that ``select`` sees what is left."""
    line = b""
    while (byte := os.read(0, 1)) not in {b"", b"\n"}:
        line += byte
    return line.decode()
