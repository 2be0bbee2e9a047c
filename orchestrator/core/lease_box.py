"""A worker's leases, first in, first out: it is given the next one while it still computes the one before."""

from __future__ import annotations

import threading
from collections import deque

from orchestrator.core.served import Lease


class LeaseBox:
    """The asynchronous counterpart of ``Mailbox``. ``put`` and ``close`` come from other threads than the rest."""

    def __init__(self) -> None:
        self._leases: deque[Lease] = deque()
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, lease: Lease) -> None:
        """Add a lease."""
        with self._changed:
            self._leases.append(lease)
            self._changed.notify_all()

    def close(self) -> None:
        """There will be no further lease, and those that are there need not be worked on."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def take(self) -> Lease | None:
        """Wait for a lease; None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or bool(self._leases))
            return None if self._is_closed else self._leases.popleft()

    def is_stale(self) -> bool:
        """Whether the end has come; a lease that was taken away is noticed by the shards, not here."""
        return self._is_closed

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        with self._changed:
            self._changed.wait_for(self.is_stale, timeout=seconds)
