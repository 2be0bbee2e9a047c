"""Which process a record in state.json means, and whether that very process still lives.

A record is ``{"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}``.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from enum import Enum
from typing import Any

import psutil

# The creation time is counted from the boot time, which the kernel rounds to seconds.
SAME_START_TOLERANCE_S = 2.0


class Liveness(Enum):
    """What is known about a job's driver."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


def this_process() -> dict[str, Any]:
    """The record of the calling process."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def liveness(record: Mapping[str, Any] | None, command_part: str) -> Liveness:
    """Whether the recorded process lives: unknown from another host, gone where its number belongs to another one.

    Args:
        record: As from ``this_process``; None is unknown.
        command_part: A part of the process's command line. It proves identity where the creation time does not,
            which moves when the system clock is set.
    """
    if record is None or record["host"] != socket.gethostname():
        return Liveness.UNKNOWN
    try:
        process = psutil.Process(record["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return Liveness.GONE
        same_start = abs(process.create_time() - record["started"]) <= SAME_START_TOLERANCE_S
        if same_start or any(command_part in argument for argument in process.cmdline()):
            return Liveness.ALIVE
    except psutil.NoSuchProcess:
        return Liveness.GONE
    except psutil.AccessDenied:
        return Liveness.UNKNOWN
    return Liveness.GONE


def interrupt(record: Mapping[str, Any] | None, command_part: str) -> bool:
    """Send SIGINT to the recorded process if it lives on this host; whether it was sent."""
    if record is None or liveness(record, command_part) is not Liveness.ALIVE:
        return False
    try:
        os.kill(record["pid"], signal.SIGINT)
    except ProcessLookupError:
        return False
    return True
