"""The states of a sweep's trials, kept by the driver beside that of their job."""

from __future__ import annotations

import time
from collections.abc import Sequence

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
        """Give the trials the phase of their job; one whose final weights are there has succeeded already.

        Args:
            phase: of the job.
            attempts: of the job; ranks look at their trial's number to see whether they still own it.
        """
        for number, directory in enumerate(self.directories):
            own_phase = "succeeded" if directory.model_file.exists() else phase
            fields = {"phase": own_phase, "attempts": attempts, "step": last_step(directory)}
            if self._written.get(number) == fields:
                continue
            finished_at = None
            if own_phase in TERMINAL_PHASES:
                finished_at = directory.read_state().get("finished_at") or time.time()
            directory.update_state(**fields, finished_at=finished_at)
            self._written[number] = fields
