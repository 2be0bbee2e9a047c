"""Which push comes next: the one that is there first, or the one that a file names."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.core.ledger import ChunkLedger
from orchestrator.core.served import Lease, Pushed
from orchestrator.spec.push_order import OrderedPush


class AsTheyCome:
    """Pushes in the order of their arrival; workers read the newest weights when they begin."""

    is_free = True
    """Whether workers are leased whatever is next to do."""

    def open(self, version: int, ledger: ChunkLedger) -> None:
        """A phase begins at a version of the weights."""

    def due(self, version: int) -> Iterable[tuple[int, int]]:
        """(chunk, worker) of what is to be computed at this version."""
        return ()

    def leased(self, worker: int, lease: Lease) -> None:
        """What was due has become a lease."""

    def unfinished(self, worker: int) -> Sequence[Lease]:
        """What a new life of a worker has to do again."""
        return ()

    def takes(self, pushed: Pushed) -> bool:
        """Whether a push that has arrived may be of use."""
        return True

    def next(self, arrived: deque[Pushed], version: int) -> Pushed | None:
        """Take the next push of the update of this version out of those that are there; None is to wait."""
        return arrived.popleft() if arrived else None

    def reads(self) -> Iterator[int]:
        """Versions that pushes still to come are computed at, besides those that workers have asked for."""
        return iter(())


class Ordered:
    """Pushes in the order of a file, computed at the versions that it names, however fast workers are.

    A phase that begins in the middle of the order (a resumed job) no longer has the weights of before: what was
    computed at them is computed at those that it begins with.

    Args:
        order: all pushes of the training.
    """

    is_free = False

    def __init__(self, order: Sequence[OrderedPush]) -> None:
        self._order = order
        self._start = 0
        self._to_come: deque[OrderedPush] = deque()
        self._reading: dict[int, list[OrderedPush]] = {}
        self._leases: dict[int, dict[int, Lease]] = {}
        """What each worker has not pushed yet, by number."""

    def open(self, version: int, ledger: ChunkLedger) -> None:
        """See ``AsTheyCome``."""
        self._start = version
        self._leases.clear()
        self._to_come = deque(push for push in self._order if push.update >= version)
        self._reading = {}
        for push in self._to_come:
            self._reading.setdefault(max(version, push.read_version), []).append(push)

    def due(self, version: int) -> Iterable[tuple[int, int]]:
        """See ``AsTheyCome``."""
        return [(push.chunk, push.worker) for push in self._reading.pop(version, ())]

    def leased(self, worker: int, lease: Lease) -> None:
        """See ``AsTheyCome``."""
        self._leases.setdefault(worker, {})[lease.number] = lease

    def unfinished(self, worker: int) -> Sequence[Lease]:
        """See ``AsTheyCome``."""
        return list(self._leases.get(worker, {}).values())

    def takes(self, pushed: Pushed) -> bool:
        """See ``AsTheyCome``; a life that has died and the one after it may both have pushed."""
        return self._leases.get(pushed.sender.worker, {}).pop(pushed.lease, None) is not None

    def next(self, arrived: deque[Pushed], version: int) -> Pushed | None:
        """See ``AsTheyCome``."""
        if not self._to_come or self._to_come[0].update > version:
            return None
        for pushed in arrived:
            if pushed.chunk == self._to_come[0].chunk:
                arrived.remove(pushed)
                self._to_come.popleft()
                return pushed
        return None

    def reads(self) -> Iterator[int]:
        """See ``AsTheyCome``."""
        for leases in self._leases.values():
            yield from (lease.weights.version for lease in leases.values() if lease.weights is not None)
