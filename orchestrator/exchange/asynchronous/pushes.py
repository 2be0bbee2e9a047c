"""The pushes of one attempt: a thread beside the training gives the coordinator its events and the time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.core.links import ShardLinks
from orchestrator.core.protocols import Tracker
from orchestrator.core.served import Publication, Pushed, RoundRequest, Update
from orchestrator.core.staleness import Staleness
from orchestrator.core.worker_times import StepTimes
from orchestrator.core.worker_watch import WorkerWatch
from orchestrator.exchange.asynchronous.arrivals import AsTheyCome, Ordered
from orchestrator.exchange.asynchronous.coordinator import PushCoordinator
from orchestrator.exchange.asynchronous.push_log import PushLog
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.push_order import OrderedPush

_POLL_S = 1.0
"""How often the time is looked at while nothing happens: leases last minutes."""


class Pushes:
    """Runs the coordinator, on the shard of rank 0.

    Args:
        config: of the exchange.
        links: to the workers; their events are taken from it.
        watch: is given the workers' times.
        log: is told of every push.
        tracker: is told of ``pushes`` at the end.
        order: all pushes of the training in their order; None takes them as they come.
    """

    def __init__(
        self,
        config: Asynchronous,
        links: ShardLinks,
        watch: WorkerWatch,
        log: PushLog,
        tracker: Tracker,
        *,
        order: Sequence[OrderedPush] | None,
    ) -> None:
        self._log = log
        self._tracker = tracker
        self._num_accepted = [0] * links.num_workers
        self._version = 0
        self._links = links
        self._watch = watch
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._times = _WorkerTimes(links.num_workers)
        self._coordinator = PushCoordinator(
            config, links.num_workers, links.port.assign, AsTheyCome() if order is None else Ordered(order)
        )
        self._thread = threading.Thread(target=self._run, name="pushes", daemon=True)
        self._thread.start()

    def open(self, phase: RoundRequest, ledger: Mapping[str, Any]) -> None:
        """Begin a phase, or go on in it."""
        self._version = phase.step
        with self._changed:
            self._coordinator.open(phase, ledger)

    def publish(self, publication: Publication) -> None:
        """New weights are there to be read."""
        self._links.newest.put(publication)
        with self._changed:
            self._coordinator.published(publication, time.monotonic())

    def next_update(self) -> Update:
        """Wait for the pushes of the next update.

        Raises:
            DivergedError: where gradients are no longer finite.
        """
        with self._changed:
            while (update := self._coordinator.take(time.monotonic())) is None:
                if self._error is not None:
                    raise self._error
                self._changed.wait()
        self._log.add(self._version, update.pushes)
        for push in update.pushes:
            self._num_accepted[push.key.sender.worker] += 1
        self._version += 1
        return replace(update, reads=update.reads | self._links.newest.reads())

    def ledger(self) -> Mapping[str, Any]:
        """What is done of the phase; ``pushes.csv`` is as far then."""
        self._log.flush()
        with self._changed:
            return self._coordinator.ledger()

    def observe(self, step: int) -> None:
        """A step has been taken; from time to time the workers' times are written down."""
        with self._changed:
            times = self._times.take(step)
        if times is not None:
            self._watch.observe(times)

    def facts(self) -> dict[str, float]:
        """How many times longer than the others the slowest worker takes; nothing where there is one worker."""
        return self._watch.facts()

    def close(self, staleness: Staleness) -> None:
        """No further update will be asked for; how old gradients were, and who computed them, becomes an event."""
        self._links.events.put(None)
        self._thread.join()
        self._log.flush()
        if staleness.counts:
            delays = {str(delay): staleness.counts[delay] for delay in sorted(staleness.counts)}
            p95, most = staleness.quantile(0.95), max(staleness.counts)
            fields = {"delays": delays, "delay_p95": p95, "delay_max": most, "by_worker": self._num_accepted}
            self._tracker.event("pushes", fields)
        self._watch.flush()

    def _run(self) -> None:
        try:
            while True:
                try:
                    event = self._links.events.get(timeout=_POLL_S)
                except queue.Empty:
                    with self._changed:
                        self._coordinator.tick(time.monotonic())
                    continue
                if event is None:
                    return
                with self._changed:
                    if isinstance(event, Pushed):
                        self._times.add(event)
                    self._coordinator.handle(event, time.monotonic())
                    self._changed.notify_all()
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()


class _WorkerTimes:
    """Collects the workers' times over as many pushes as there are workers: one line of ``worker_times.jsonl``."""

    def __init__(self, num_workers: int) -> None:
        self._seconds: list[list[float]] = [[] for _ in range(num_workers)]
        self._elements: list[int | None] = [None] * num_workers

    def add(self, pushed: Pushed) -> None:
        """A worker has computed a gradient."""
        self._seconds[pushed.sender.worker].append(pushed.seconds)
        self._elements[pushed.sender.worker] = pushed.num_elements

    def take(self, step: int) -> StepTimes | None:
        """A line of this step, where enough has come since the last one."""
        if sum(map(len, self._seconds)) < len(self._seconds):
            return None
        means = [sum(values) / len(values) if values else None for values in self._seconds]
        elements = [count if values else None for count, values in zip(self._elements, self._seconds, strict=True)]
        self._seconds = [[] for _ in self._seconds]
        return StepTimes(step=step, seconds=means, elements=elements)
