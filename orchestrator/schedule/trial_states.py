"""The states of a sweep's trials, kept by the driver beside that of their job."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory, last_json_line


def last_step(directory: RunDirectory) -> int:
    """Step of the newest line of metrics; 0 before the first."""
    return int((last_json_line(directory.metrics_file) or {}).get("step", 0))


class TrialStates:
    """Writes the trials' ``state.json``, and only where something has changed: a sweep may have many.

    Args:
        directories: of the trials, in their order; empty for a job without a sweep.
    """

    def __init__(self, directories: Sequence[RunDirectory]) -> None:
        self.directories = directories
        self._written: dict[int, dict[str, object]] = {}

    def follow(self, phase: str, attempts: int) -> None:
        """Give the trials the phase of their job; one may have succeeded or failed already.

        Its final weights say that it has succeeded, a note of this attempt that it has failed.

        Args:
            phase: of the job.
            attempts: of the job; ranks look at their trial's number to see whether they still own it.
        """
        for number, directory in enumerate(self.directories):
            failure = _failure(directory, attempts)
            own_phase = "succeeded" if directory.model_file.exists() else "failed" if failure else phase
            fields = {"phase": own_phase, "attempts": attempts, "step": last_step(directory)}
            fields |= {"reason": failure.get("reason"), "message": failure.get("message")}
            if self._written.get(number) == fields:
                continue
            finished_at = None
            if own_phase in TERMINAL_PHASES:
                finished_at = directory.read_state().get("finished_at") or time.time()
            directory.update_state(**fields, finished_at=finished_at)
            self._written[number] = fields

    def last_step(self, attempts: int) -> int:
        """Step of the slowest trial; those that have failed are left out, unless all have."""
        going = [directory for directory in self.directories if not _failure(directory, attempts)]
        return min(map(last_step, going or self.directories))


def _failure(directory: RunDirectory, attempts: int) -> dict[str, Any]:
    """Why a trial has ended while others of its job went on, in this attempt; empty where it has not."""
    if not directory.failure_file.exists():
        return {}
    failure: dict[str, Any] = json.loads(directory.failure_file.read_text(encoding="utf-8"))
    return failure if failure["attempt"] == attempts else {}
