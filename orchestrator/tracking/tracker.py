"""The tracker of rank 0, behind ``core.protocols.Tracker``: one write per step; a companion does the rest."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from orchestrator.core.run_directory import RunDirectory
from orchestrator.tracking.follow import start_follower
from orchestrator.tracking.metrics_file import cut_half_line, encode_line, json_value

logger = logging.getLogger(__name__)


class RunTracker:
    """Appends metrics and events to the run directory, and lets a companion carry the metrics to MLflow.

    A line is handed to the operating system before ``log`` returns, so a killed process loses none. Nothing here
    raises once the tracker exists: what cannot be written is lost with one warning in the rank's log. One thread logs.

    Args:
        run_directory: of the job; ``trim_metrics`` has been called where training was resumed.
        uri: address of MLflow; it need not answer now or ever.
        run_id: the MLflow run of the job.
        flush_every_s: seconds between two looks at the file.
    """

    def __init__(self, run_directory: RunDirectory, uri: str, run_id: str, flush_every_s: float = 1.0) -> None:
        self._run_directory = run_directory
        cut_half_line(run_directory.metrics_file)
        self._file = os.open(run_directory.metrics_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._size = os.fstat(self._file).st_size
        self._is_broken = False
        self._follower = start_follower(run_directory, uri, run_id, flush_every_s)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one line: the step, the time and the metrics. Takes microseconds, whatever MLflow does."""
        try:
            self._append(encode_line(step, time.time(), metrics))
        except Exception as error:
            self._warn(f"metrics of step {step} cannot be written: {error}")

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Append one decision to ``events.jsonl``."""
        try:
            self._run_directory.event(name, json_value(fields))
        except Exception as error:
            self._warn(f"event {name} cannot be written: {error}")

    def close(self, timeout_s: float = 30.0) -> None:
        """Flush the file to disk and give the companion up to ``timeout_s`` seconds; ``replay`` sends what is left."""
        if self._file < 0:
            return
        try:
            os.fsync(self._file)
            os.close(self._file)
        except OSError as error:
            self._warn(f"metrics cannot be written: {error}")
        self._file = -1
        self._follower.stop(timeout_s)

    def _append(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written < len(line):
            # A full disk takes half a line; the next one must not stand behind it.
            os.ftruncate(self._file, self._size)
            raise OSError("no space left for the whole line")
        self._size += written

    def _warn(self, message: str) -> None:
        if not self._is_broken:
            logger.warning("%s; further losses are not reported", message)
        self._is_broken = True


class EventTracker:
    """Tells the run directory of events; metrics have other trackers."""

    def __init__(self, run_directory: RunDirectory) -> None:
        self._run_directory = run_directory

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Append one decision to ``events.jsonl``."""
        try:
            self._run_directory.event(name, json_value(fields))
        except OSError as error:
            logger.warning("event %s cannot be written: %s", name, error)

    def close(self) -> None:
        """Nothing to write."""


class NullTracker:
    """The tracker of every other rank: keeps nothing."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Nothing to write."""
