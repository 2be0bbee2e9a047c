"""The thread beside the coordinating shard's training that gives the coordinator its events and the time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from orchestrator.core.coding.scheme import Scheme
from orchestrator.core.coding.waiting import WaitRule
from orchestrator.core.links import ShardLinks
from orchestrator.core.served import Event, Submitted, Work
from orchestrator.exchange.served.coordinator import Closed, Coordinator, RoundSummary


class CoordinatorThread:
    """Runs a coordinator until it is closed.

    Args:
        scheme: the code.
        rule: when a round closes.
        links: to the workers; their events are taken from it.
        on_round: is given the history of every round, in this thread.
    """

    def __init__(
        self, scheme: Scheme, rule: WaitRule, links: ShardLinks, on_round: Callable[[RoundSummary], None]
    ) -> None:
        self._events = links.events
        self._futures: dict[int, Future[Closed]] = {}
        self._coordinator = Coordinator(
            scheme, rule, assign=links.port.assign, on_closed=self._resolve, on_round=on_round
        )
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)
        self._thread.start()

    def submit(self, job: int, work: Work) -> Future[Closed]:
        """Begin a job; the future has it when it is decoded, or the error that keeps it from being."""
        future: Future[Closed] = Future()
        self._futures[job] = future
        self._events.put(Submitted(job, work))
        return future

    def close(self) -> None:
        """End the thread; an open round is left as it is."""
        self._events.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            event = self._next_event()
            if event is None:
                self._coordinator.end(time.monotonic())
                return
            try:
                if isinstance(event, _Time):
                    self._coordinator.tick(time.monotonic())
                else:
                    self._coordinator.handle(event, time.monotonic())
            except Exception as error:
                self._fail(error)
                return

    def _next_event(self) -> Event | _Time | None:
        moment = self._coordinator.next_check()
        try:
            return self._events.get(timeout=None if moment is None else max(0.0, moment - time.monotonic()))
        except queue.Empty:
            return _Time()

    def _resolve(self, closed: Closed) -> None:
        self._futures.pop(closed.decoded.job).set_result(closed)

    def _fail(self, error: Exception) -> None:
        for future in self._futures.values():
            future.set_exception(error)


class _Time:
    """Nothing has happened, but the coordinator asked to be told the time."""
