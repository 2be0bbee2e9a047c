"""Decides who computes what next, and which pushes make the next update: a state machine without threads or clocks.

worker joined, or has pushed --> it is leased the next chunk
all shards have a push       --> it waits in the order of arrival until the training takes it
the training takes an update --> pushes whose lease is void or whose weights are too old are refused
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.core.errors import DivergedError
from orchestrator.core.ledger import ChunkLedger
from orchestrator.core.served import (
    AcceptedPush,
    Event,
    Joined,
    Lease,
    Lost,
    MessageKey,
    Publication,
    Pushed,
    RoundRequest,
    Sender,
    Update,
)
from orchestrator.exchange.asynchronous.arrivals import AsTheyCome, Ordered
from orchestrator.spec.methods.asynchronous import Asynchronous

MAX_LEASE_AGE = 2048
"""Leases given since, after which one ends: shards remember so many messages apart."""
MAX_REFUSALS = 3
"""Gradients of one chunk that are not finite, at different weights, before the training gives up on it."""


@dataclass(slots=True)
class _Worker:
    sender: Sender
    leases: dict[int, Lease]
    """What it has not pushed yet, by number."""
    unapplied: set[int]
    """Its pushes that are not in the weights yet, by number."""
    num_accepted: int
    """Pushes that updates have taken; a new life begins with as many as the slowest worker has."""
    is_late: bool = False
    """Whether a lease of it has run out, and nothing has come since: nobody waits for it."""


class PushCoordinator:
    """The coordinator of one attempt. Events and takings come one at a time, from whichever thread.

    Args:
        config: of the exchange.
        num_workers: that the job has, dead ones included.
        assign: sends a lease to a worker.
        order: which push comes when; as they come, or as a file says.
    """

    def __init__(
        self,
        config: Asynchronous,
        num_workers: int,
        assign: Callable[[int, Lease], None],
        order: AsTheyCome | Ordered,
    ) -> None:
        self._num_workers = num_workers
        self._config = config
        self._assign = assign
        self._order = order
        self._workers: dict[int, _Worker] = {}
        self._ledger = ChunkLedger(0)
        self._phase: RoundRequest | None = None
        self._version = 0
        self._num_leases = 0
        self._arrived: deque[Pushed] = deque()
        self._chosen: list[AcceptedPush] = []
        self._dropped: list[int] = []
        self._taken: set[int] = set()
        self._counts: Counter[str] = Counter(stale_pushes=0, duplicate_pushes=0, fenced_pushes=0, refused_pushes=0)
        self._refused_in_a_row = 0
        self._refused_of_chunk: Counter[int] = Counter()
        self._too_slow_for: dict[int, int] = {}
        """The worker that was last to bring a chunk's push too late."""

    def open(self, phase: RoundRequest, ledger: Mapping[str, Any]) -> None:
        """Begin a phase, or go on in it; the request's step is the version that the weights have."""
        num_chunks = -(-phase.num_samples // self._chunk_size(phase))
        self._phase, self._version = phase, phase.step
        self._ledger = ChunkLedger(num_chunks, ledger)
        self._order.open(phase.step, self._ledger)
        self._refused_of_chunk.clear()
        self._too_slow_for.clear()

    def published(self, publication: Publication, now: float) -> None:
        """New weights are there to be read."""
        self._version = publication.version
        for worker in self._workers.values():
            worker.unapplied -= self._taken
        self._taken.clear()
        for chunk, number in self._order.due(publication.version):
            self._lease(number, chunk, publication)
        self._give(now)

    def handle(self, event: Event, now: float) -> None:
        """Take note of a worker.

        Raises:
            DivergedError: where gradients are no longer finite.
        """
        if isinstance(event, Joined):
            self._join(event.sender)
        elif isinstance(event, Lost):
            self._lose(event.sender)
        elif isinstance(event, Pushed):
            self._arrive(event)
        self._give(now)

    def tick(self, now: float) -> None:
        """Time has passed: leases that have lasted too long are given to others."""
        for worker, number in self._ledger.expire(now, oldest_lease=self._num_leases - MAX_LEASE_AGE):
            self._counts["expired_leases"] += 1
            self._dropped.append(number)
            if worker in self._workers:
                self._workers[worker].leases.pop(number, None)
                self._workers[worker].is_late = True
        self._give(now)

    def next_check(self) -> float | None:
        """The moment at which ``tick`` has something to do; None where nothing is waited for."""
        return self._ledger.next_expiry()

    def take(self, now: float) -> Update | None:
        """The next update; None where its pushes are not all there yet."""
        while len(self._chosen) < self._wanted and (pushed := self._order.next(self._arrived, self._version)):
            self._choose(pushed)
        if not self._chosen or len(self._chosen) < self._wanted:
            self._give(now)
            return None
        pushes, self._chosen = self._chosen, []
        dropped, self._dropped = tuple(self._dropped), []
        sizes = [self._samples_of(push.chunk) for push in pushes]
        self._give(now)
        return Update(
            pushes=tuple(replace(p, share=size / sum(sizes)) for p, size in zip(pushes, sizes, strict=True)),
            num_samples=sum(sizes),
            dropped=dropped,
            reads=frozenset((*self._order.reads(), *(pushed.read_version for pushed in self._arrived))),
            facts={name: float(count) for name, count in self._counts.items()},
        )

    def ledger(self) -> Mapping[str, Any]:
        """What is done of the phase."""
        return self._ledger.state_dict()

    @property
    def _wanted(self) -> int:
        """Pushes of the next update: fewer only where the phase has no more."""
        return min(self._config.pushes_per_update, len(self._chosen) + self._ledger.num_left)

    def _join(self, sender: Sender) -> None:
        others = [worker.num_accepted for number, worker in self._workers.items() if number != sender.worker]
        self._workers[sender.worker] = _Worker(sender, {}, set(), min(others, default=0))
        for lease in self._order.unfinished(sender.worker):
            self._send(sender.worker, lease)

    def _lose(self, sender: Sender) -> None:
        worker = self._workers.get(sender.worker)
        if worker is not None and worker.sender == sender:
            del self._workers[sender.worker]
            if self._order.is_free:
                self._dropped.extend(worker.leases)
                self._ledger.lose(sender.worker)

    def _arrive(self, pushed: Pushed) -> None:
        worker = self._workers.get(pushed.sender.worker)
        if worker is not None and worker.sender == pushed.sender:
            worker.leases.pop(pushed.lease, None)
            worker.is_late = False
        if not pushed.is_taken:
            self._refuse(pushed)
        elif self._order.takes(pushed):
            self._arrived.append(pushed)
            if worker is not None:
                worker.unapplied.add(pushed.lease)

    def _refuse(self, pushed: Pushed) -> None:
        """A gradient is not finite: its chunk is tried again, but not for ever."""
        self._counts["refused_pushes"] += 1
        self._refused_in_a_row += 1
        self._refused_of_chunk[pushed.chunk] += 1
        self._dropped.append(pushed.lease)
        self._ledger.release(pushed.chunk, pushed.lease)
        phase = self._phase
        assert phase is not None  # there are no leases before
        is_hopeless = not self._order.is_free  # the same weights and samples give the same gradient
        is_hopeless |= self._refused_in_a_row >= 2 * max(2, len(self._workers))
        if not is_hopeless and self._refused_of_chunk[pushed.chunk] < MAX_REFUSALS:
            return
        first = pushed.chunk * self._chunk_size(phase)
        raise DivergedError(
            f"The gradients of {self._refused_in_a_row} pushes in a row, last of samples {first} to "
            f"{first + self._samples_of(pushed.chunk) - 1} of the phase, are not finite after step {self._version}: "
            "training cannot go on. A lower learning rate, adaptive_braking or exchange.max_delay usually helps."
        )

    def _choose(self, pushed: Pushed) -> None:
        """Accept a push for the next update, or refuse it."""
        delay = self._version - pushed.read_version
        max_delay = self._config.max_delay
        if max_delay is not None and delay > max_delay:
            self._ledger.release(pushed.chunk, pushed.lease)
            self._too_slow_for[pushed.chunk] = pushed.sender.worker
            self._drop(pushed, "stale_pushes")
            return
        verdict = self._ledger.commit(pushed.chunk, pushed.lease)
        if verdict != "accepted":
            self._drop(pushed, f"{verdict}_pushes")
            return
        self._taken.add(pushed.lease)
        self._refused_in_a_row = 0
        self._refused_of_chunk.pop(pushed.chunk, None)
        self._too_slow_for.pop(pushed.chunk, None)
        worker = self._workers.get(pushed.sender.worker)
        if worker is not None:
            worker.num_accepted += 1
        self._chosen.append(
            AcceptedPush(
                key=MessageKey(sender=pushed.sender, job=pushed.lease, slot=0),
                chunk=pushed.chunk,
                read_version=pushed.read_version,
                delay=delay,
                share=0.0,
                report=pushed.report,
            )
        )

    def _drop(self, pushed: Pushed, name: str) -> None:
        self._counts[name] += 1
        self._dropped.append(pushed.lease)
        worker = self._workers.get(pushed.sender.worker)
        if worker is not None:
            worker.unapplied.discard(pushed.lease)

    def _give(self, now: float) -> None:
        """Lease chunks to all workers that may begin another one."""
        if self._phase is None or not self._order.is_free:
            return
        for number in self._in_turn():
            worker = self._workers[number]
            while self._may_begin(worker) or self._is_stuck:
                until_s = now + self._config.lease_s
                chunk = self._ledger.lease(self._num_leases, number, until_s, but=self._left_to_others(number))
                if chunk is None:
                    break
                self._send(number, self._new_lease(chunk, None))

    def _left_to_others(self, number: int) -> list[int]:
        """Chunks whose push this worker brought too late: one that always does would compute them again and again."""
        others = [worker for other, worker in self._workers.items() if other != number]
        if all(worker.is_late or self._is_ahead(worker) for worker in others):
            return []
        return [chunk for chunk, worker in self._too_slow_for.items() if worker == number]

    @property
    def _is_stuck(self) -> bool:
        """Whether an update waits for pushes that nobody will compute, as all who could wait for the update."""
        workers = self._workers.values()
        nobody_computes = not self._arrived and not any(worker.leases for worker in workers)
        too_few = self._config.pushes_per_update > self._num_workers or any(worker.is_late for worker in workers)
        return bool(self._chosen) and nobody_computes and too_few

    def _in_turn(self) -> list[int]:
        """The workers, those with nothing to do first."""
        return sorted(self._workers, key=lambda number: (len(self._workers[number].leases), number))

    def _may_begin(self, worker: _Worker) -> bool:
        """Whether a worker gets one more lease: one to compute, with overlap one to go on with, one on its way.

        One that is late may hang: it gets nothing before something comes of it.
        """
        at_once = 3 if self._config.overlap else 1
        is_free = not worker.is_late and len(worker.leases) + len(worker.unapplied) < at_once and len(worker.leases) < 2
        return is_free and not self._is_ahead(worker)

    def _is_ahead(self, worker: _Worker) -> bool:
        """Whether the worker waits for slower ones: its leases count as done, else it would run ahead by one more."""
        if self._config.max_lead is None:
            return False
        slowest = min((w.num_accepted for w in self._workers.values() if not w.is_late), default=worker.num_accepted)
        return worker.num_accepted + len(worker.leases) - slowest > self._config.max_lead

    def _lease(self, worker: int, chunk: int, weights: Publication) -> None:
        """Lease a certain chunk, to be computed at certain weights."""
        self._ledger.lease_this(chunk, self._num_leases, worker)
        lease = self._new_lease(chunk, weights)
        self._order.leased(worker, lease)
        if worker in self._workers:
            self._send(worker, lease)

    def _new_lease(self, chunk: int, weights: Publication | None) -> Lease:
        phase = self._phase
        assert phase is not None
        size = self._samples_of(chunk)
        lease = Lease(
            number=self._num_leases,
            chunk=chunk,
            request=replace(
                phase,
                step=chunk,
                position=chunk * self._chunk_size(phase),
                num_samples=size,
                num_counted=size,
            ),
            weights=weights,
        )
        self._num_leases += 1
        return lease

    def _send(self, number: int, lease: Lease) -> None:
        self._workers[number].leases[lease.number] = lease
        self._assign(number, lease)

    def _chunk_size(self, phase: RoundRequest) -> int:
        return phase.num_counted // self._config.pushes_per_update

    def _samples_of(self, chunk: int) -> int:
        phase = self._phase
        assert phase is not None
        size = self._chunk_size(phase)
        return min(size, phase.num_samples - chunk * size)
