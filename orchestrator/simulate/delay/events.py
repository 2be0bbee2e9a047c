"""Which push of an asynchronous training is taken when: workers' finish times in their order, without a cluster.

    a worker begins a chunk      reads the newest version of the weights
    it has computed              its push is on its way for a constant time; with overlap it begins the next chunk now
    the push has arrived         it is taken for the next update, or refused as too old; without overlap it begins now

The rules are those of the asynchronous exchange; what differs is that seconds are given, so the order is the same at
every call.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from orchestrator.core.coding.checks import check_range
from orchestrator.simulate.delay.times import WorkerTimes
from orchestrator.simulate.stragglers.checks import check_number
from orchestrator.spec.push_order import OrderedPush


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRules:
    """How many pushes there are, and which of them are taken; the fields of ``spec.methods.asynchronous``.

    Raises:
        ValueError: where a number is out of its range.
    """

    num_updates: int
    """Updates of the whole training."""
    pushes_per_update: int = 1
    """Pushes that make one update."""
    max_delay: int | None = None
    """Delay beyond which a push is refused and its chunk given out again."""
    max_lead: int | None = None
    """Pushes that a worker may be ahead of the slowest one before it waits."""
    overlap: bool = False
    """Whether a worker begins the next chunk when its push begins, not when the push has arrived."""
    push_s: float = 0.0
    """Seconds that a push is on its way; a worker has one on its way at a time."""

    def __post_init__(self) -> None:
        check_range("updates", self.num_updates, least=1)
        check_range("pushes_per_update", self.pushes_per_update, least=1)
        for name, value in (("max_delay", self.max_delay), ("max_lead", self.max_lead)):
            if value is not None:
                check_range(name, value, least=0)
        check_number("push_s", self.push_s, least=0.0)

    @property
    def num_pushes(self) -> int:
        """Pushes that are taken, which is the number of chunks."""
        return self.num_updates * self.pushes_per_update


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What became of a simulated training."""

    order: tuple[OrderedPush, ...]
    """Every push that was taken, in the order of the updates."""
    refused: tuple[int, ...]
    """Pushes of each worker that were refused."""
    seconds: float
    """From the start to the last update."""
    synchronous_s: float
    """What the same chunks take if every step waits for one of each worker."""

    @property
    def accepted(self) -> tuple[int, ...]:
        """Pushes of each worker that were taken."""
        counts = Counter(push.worker for push in self.order)
        return tuple(counts[worker] for worker in range(len(self.refused)))

    @property
    def speedup(self) -> float:
        """Samples in a time, relative to those of synchronous training with the same workers."""
        return self.synchronous_s / self.seconds


def simulate(times: WorkerTimes, rules: PushRules) -> Course:
    """Let workers compute until the last update."""
    return _Events(times, rules).run()


def fixed_delay(num_updates: int, delay: int) -> tuple[OrderedPush, ...]:
    """The order in which each push has the same delay: ``delay`` + 1 workers in turn, each equally fast.

    The first updates have version 0, as there is none before.

    Raises:
        ValueError: where a number is out of its range.
    """
    check_range("updates", num_updates, least=1)
    check_range("delay", delay, least=0)
    return tuple(
        OrderedPush(update=update, worker=update % (delay + 1), chunk=update, read_version=max(0, update - delay))
        for update in range(num_updates)
    )


@dataclass(slots=True)
class _Worker:
    seconds: Iterator[float]
    num_accepted: int = 0
    num_unsettled: int = 0
    """Chunks that it computes or has on their way."""
    num_refused: int = 0
    link_free_s: float = 0.0
    """When its last push has arrived."""


@dataclass(order=True, slots=True)
class _Event:
    """What happens next; at the same moment in the order of workers, then as it was caused."""

    time_s: float
    worker: int
    number: int
    kind: Literal["computed", "arrived"] = field(compare=False)
    chunk: int = field(compare=False)
    read_version: int = field(compare=False)


class _Events:
    def __init__(self, times: WorkerTimes, rules: PushRules) -> None:
        self._times = times
        self._rules = rules
        self._workers = [_Worker(times.of(worker)) for worker in range(times.num_workers)]
        self._to_do = list(range(rules.num_pushes))
        self._order: list[OrderedPush] = []
        self._heap: list[_Event] = []
        self._numbers = count()
        self._idle = set(range(times.num_workers))
        self._num_accepted = [times.num_workers]
        """Workers by how many pushes of them were taken."""
        self._slowest = 0
        """Pushes that were taken of the worker with the fewest."""

    @property
    def _version(self) -> int:
        return len(self._order) // self._rules.pushes_per_update

    def run(self) -> Course:
        now = 0.0
        self._begin(self._idle, now)
        while len(self._order) < self._rules.num_pushes:
            event = heapq.heappop(self._heap)
            now = event.time_s
            before = self._slowest, len(self._to_do)
            if event.kind == "computed":
                self._push(event)
            else:
                self._settle(event)
            # What others wait for is a slower worker's push, or a chunk.
            is_awaited = (self._slowest, len(self._to_do)) != before
            self._begin(self._idle if is_awaited else self._idle & {event.worker}, now)
        return Course(
            order=tuple(self._order),
            refused=tuple(worker.num_refused for worker in self._workers),
            seconds=now,
            synchronous_s=self._synchronous_s(),
        )

    def _push(self, event: _Event) -> None:
        worker = self._workers[event.worker]
        if worker.link_free_s > event.time_s:
            self._schedule("computed", worker.link_free_s, event.worker, event.chunk, event.read_version)
            return
        worker.link_free_s = event.time_s + self._rules.push_s
        self._schedule("arrived", worker.link_free_s, event.worker, event.chunk, event.read_version)
        if self._rules.overlap:
            self._idle.add(event.worker)

    def _settle(self, event: _Event) -> None:
        worker = self._workers[event.worker]
        worker.num_unsettled -= 1
        push = OrderedPush(self._version, event.worker, event.chunk, event.read_version)
        if self._rules.max_delay is not None and push.delay > self._rules.max_delay:
            worker.num_refused += 1
            heapq.heappush(self._to_do, event.chunk)
        else:
            self._order.append(push)
            self._count_accepted(worker)
        if not self._rules.overlap:
            self._idle.add(event.worker)

    def _count_accepted(self, worker: _Worker) -> None:
        self._num_accepted[worker.num_accepted] -= 1
        worker.num_accepted += 1
        if worker.num_accepted == len(self._num_accepted):
            self._num_accepted.append(0)
        self._num_accepted[worker.num_accepted] += 1
        while self._num_accepted[self._slowest] == 0:
            self._slowest += 1

    def _begin(self, idle: Set[int], now: float) -> None:
        """Give a chunk to every one of these workers that need not wait."""
        for number in sorted(idle):
            worker = self._workers[number]
            if self._to_do and not self._is_ahead(worker):
                self._idle.remove(number)
                worker.num_unsettled += 1
                chunk = heapq.heappop(self._to_do)
                self._schedule("computed", now + next(worker.seconds), number, chunk, self._version)

    def _is_ahead(self, worker: _Worker) -> bool:
        max_lead = self._rules.max_lead
        return max_lead is not None and worker.num_accepted + worker.num_unsettled - self._slowest > max_lead

    def _schedule(
        self, kind: Literal["computed", "arrived"], time_s: float, worker: int, chunk: int, read_version: int
    ) -> None:
        heapq.heappush(self._heap, _Event(time_s, worker, next(self._numbers), kind, chunk, read_version))

    def _synchronous_s(self) -> float:
        workers = [self._times.of(worker) for worker in range(self._times.num_workers)]
        num_rounds, num_left = divmod(self._rules.num_pushes, len(workers))
        whole_s = sum(max(map(next, workers)) + self._rules.push_s for _ in range(num_rounds))
        return whole_s + (max(map(next, workers[:num_left])) + self._rules.push_s if num_left else 0.0)
