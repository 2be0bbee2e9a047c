"""A worker's mailbox: it holds the newest assignment only, so nothing ever queues behind a slow worker."""

from __future__ import annotations

import threading

from orchestrator.core.served import Assignment


class Mailbox:
    """One assignment, replaced by every newer one. ``put`` and ``close`` come from other threads than the rest."""

    def __init__(self) -> None:
        self._newest: Assignment | None = None
        self._is_new = False
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, assignment: Assignment) -> None:
        """Deliver an assignment; one that was not taken yet is forgotten, and one that is older than it is ignored."""
        with self._changed:
            if self._newest is None or assignment.round_index >= self._newest.round_index:
                self._newest, self._is_new = assignment, True
                self._changed.notify_all()

    def close(self) -> None:
        """There will be no further assignment, and the present one need not be finished."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def take(self) -> Assignment | None:
        """Wait for an assignment that has not been taken; None when there will be none."""
        with self._changed:
            self._changed.wait_for(self.is_stale)
            if self._is_closed:
                return None
            self._is_new = False
            return self._newest

    def is_stale(self) -> bool:
        """Whether the assignment that was taken has been replaced or called off."""
        return self._is_new or self._is_closed

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the moment at which the assignment becomes stale."""
        with self._changed:
            self._changed.wait_for(self.is_stale, timeout=seconds)
