"""The newest weights, for workers that ask when they begin."""

from __future__ import annotations

import threading
from collections import deque

from orchestrator.core.served import Publication

_READS_IN_FLIGHT = 2
"""Gradients of one worker whose weights somebody may still look at: one computed, one on its way."""


class Newest:
    """Holds one publication, and remembers who read which. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._publication: Publication | None = None
        self._reads: dict[int, deque[int]] = {}
        self._changed = threading.Condition()

    def put(self, publication: Publication) -> None:
        """Replace the publication."""
        with self._changed:
            self._publication = publication
            self._changed.notify_all()

    def get(self, worker: int) -> Publication:
        """The newest one, for a worker; waits for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._publication is not None)
            assert self._publication is not None
            self._reads.setdefault(worker, deque(maxlen=_READS_IN_FLIGHT)).append(self._publication.version)
            return self._publication

    def reads(self) -> set[int]:
        """The versions that workers have read last."""
        with self._changed:
            return {version for versions in self._reads.values() for version in versions}
