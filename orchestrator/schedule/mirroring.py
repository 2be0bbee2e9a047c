"""Keeps the copy of a job's run directory up to date while its driver lives."""

from __future__ import annotations

import threading
import time

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.mirror import Mirror
from orchestrator.core.run_directory import RunDirectory

EVERY_S = 10.0
LAST_TRIES_S = 60.0
"""How long a job that has ended goes on trying to complete its copy."""


class Mirroring:
    """Copies in a thread of its own; never raises, and an outage costs nothing but events.

    Args:
        url: see ``core.mirror.Mirror``; None keeps no copy.
        directory: of the job.
    """

    def __init__(self, url: str | None, directory: RunDirectory) -> None:
        self._url = url
        self._directory = directory
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="mirror", daemon=True)
        self._has_outage = False

    def start(self) -> None:
        """Begin."""
        if self._url is not None:
            self._thread.start()

    def close(self) -> None:
        """Copy what the job has left, for at most ``LAST_TRIES_S`` seconds."""
        if not self._thread.is_alive():
            return
        self._is_over.set()
        self._thread.join(2 * LAST_TRIES_S)

    def _keep(self) -> None:
        while not self._is_over.wait(EVERY_S):
            self._push()
        self._push()
        ends = time.monotonic() + LAST_TRIES_S
        while self._has_outage and time.monotonic() < ends:
            time.sleep(1)
            self._push()
        if self._has_outage:
            self._directory.event("mirror_incomplete", {"mirror": self._url})

    def _push(self) -> None:
        assert self._url is not None
        try:
            Mirror(self._url).push(self._directory)
        except (OrchestratorError, OSError) as error:
            if not self._has_outage:
                self._directory.event("mirror_outage", {"mirror": self._url, "message": str(error)})
            self._has_outage = True
        else:
            if self._has_outage:
                self._directory.event("mirror_restored", {"mirror": self._url})
            self._has_outage = False
