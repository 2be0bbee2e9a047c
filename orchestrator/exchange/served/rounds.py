"""The rounds of one attempt: a thread beside the trainings that gives the coordinator its events and the time."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future

from orchestrator.core.coding.build import build_scheme
from orchestrator.core.coding.waiting import WaitRule
from orchestrator.core.links import ShardLinks
from orchestrator.core.served import Event, Retired, Submitted, Work
from orchestrator.core.worker_times import StepTimes
from orchestrator.core.worker_watch import WorkerWatch
from orchestrator.exchange.served.coordinator import Closed, Coordinator, GivenUp, RoundSummary
from orchestrator.spec.methods.coded import Coded


class Rounds:
    """Runs the coordinator of all models that share the workers, until the last of them retires.

    Args:
        config: the scheme, and when its rounds close.
        links: to the workers; their events are taken from it.
        watch: is given every worker's times.
        num_models: models that take turns.
    """

    def __init__(self, config: Coded, links: ShardLinks, watch: WorkerWatch, *, num_models: int) -> None:
        scheme = build_scheme(config.scheme, links.num_workers, nodes=links.nodes, **config.parameters())
        rule = WaitRule(kind=config.close, mu=config.mu, wait=config.wait)
        self._num_models = num_models
        self._active = set(range(num_models))
        self._watch = watch
        self._events = links.events
        self._futures: dict[int, Future[Closed | GivenUp]] = {}
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._coordinator = Coordinator(
            scheme,
            rule,
            num_models=num_models,
            assign=links.port.assign,
            on_closed=self._resolve,
            on_round=self._observe,
            on_overdue=links.port.end_worker,
            worker_timeout_s=config.worker_timeout_s,
        )
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)
        self._thread.start()

    def submit(self, model: int, step: int, work: Work) -> Future[Closed | GivenUp]:
        """Begin a step of a model; the future has what becomes of it, or the error that ended all rounds.

        Args:
            model: which one.
            step: steps of this model in this attempt before this one.
            work: what workers need for it.
        """
        job = step * self._num_models + model
        future: Future[Closed | GivenUp] = Future()
        with self._lock:
            if self._error is None:
                self._futures[job] = future
            else:
                future.set_exception(self._error)
        self._events.put(Submitted(job, work))
        return future

    def retire(self, model: int) -> None:
        """A model trains no further; with the last one the thread ends."""
        self._events.put(Retired(model))
        with self._lock:
            self._active.discard(model)
            is_last = not self._active
        if is_last:
            self._events.put(None)
            self._thread.join()
            self._watch.flush()

    def facts(self) -> dict[str, float]:
        """How many times longer than the others the slowest worker takes; nothing where there is one worker."""
        return self._watch.facts()

    def _run(self) -> None:
        try:
            while (event := self._next_event()) is not None:
                if isinstance(event, _Time):
                    self._coordinator.tick(time.monotonic())
                else:
                    self._coordinator.handle(event, time.monotonic())
            self._coordinator.end(time.monotonic())
        except Exception as error:
            with self._lock:
                self._error = error
                for future in self._futures.values():
                    future.set_exception(error)

    def _next_event(self) -> Event | _Time | None:
        moment = self._coordinator.next_check()
        try:
            if moment is None:
                return self._events.get()
            # A deadline may be further away than a thread can wait.
            return self._events.get(timeout=min(max(0.0, moment - time.monotonic()), threading.TIMEOUT_MAX))
        except queue.Empty:
            return _Time()

    def _resolve(self, closed: Closed | GivenUp) -> None:
        with self._lock:
            future = self._futures.pop(closed.job if isinstance(closed, GivenUp) else closed.decoded.job)
        future.set_result(closed)

    def _observe(self, summary: RoundSummary) -> None:
        # With several models, their steps in turn.
        step = summary.request.step * self._num_models + summary.request.model + 1
        self._watch.observe(StepTimes(step=step, seconds=summary.seconds, elements=summary.elements, left=summary.left))


class _Time:
    """Nothing has happened, but the coordinator asked to be told the time."""
