"""Whether a job has ended, also where its driver disappeared without a word."""

from __future__ import annotations

import time

from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory

RECONCILE_S = 10.0
"""Seconds between two looks at whether the driver still lives; each may ask a cluster."""


class Watch:
    """Looks at ``state.json`` often and at the driver itself seldom."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._next_s = time.monotonic() + RECONCILE_S

    def has_ended(self) -> bool:
        """Whether the job is in a phase that it never leaves."""
        from orchestrator.launch.control import reconcile

        if self._run.read_state().get("phase") in TERMINAL_PHASES:
            return True
        if time.monotonic() < self._next_s:
            return False
        self._next_s = time.monotonic() + RECONCILE_S
        return reconcile(self._run).get("phase") in TERMINAL_PHASES
