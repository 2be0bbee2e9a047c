"""Keeps the queue for drivers that come, report and vanish: leases, and a fresh start after a death. Pure.

A driver repeats the whole truth about its job with every report, and nothing hangs on a single message: a lost report
or answer is made up for by the next one, and a keeper without a memory is told again who waits and who holds what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.schedule.queue.core import SharedQueue
from orchestrator.schedule.queue.grow import GROWTH_PAUSE_S
from orchestrator.schedule.queue.reasons import reason_of
from orchestrator.schedule.queue.values import Granted, NodeState, Request, Use

LEASE_S = 30.0
"""A driver that has not reported for so long is dead, and its place is free."""
GRACE_S = 8.0
"""A new keeper first hears from those that hold places; a driver that gets no answer reports every second."""
REPORT_EVERY_S = 1.0
MOST_REPORTS_PER_S = 300.0
NOT_HEARD_YET = "the queue has just started and first hears from jobs that run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a driver says of its job."""

    request: Request
    turn: str
    """Names one wait and the place that comes of it: a driver that waits again takes a new name."""
    uses: tuple[Use, ...] | None = None
    """The place that it holds; None while it waits."""
    held_since: float = 0.0
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a driver is told."""

    uses: tuple[Use, ...] | None
    """Its job's place, which may have grown; None while it waits."""
    again_s: float
    """When to report again."""
    position: int = 0
    """From 1; 0 with a place."""
    num_waiting: int = 0
    """All jobs that wait."""
    reason: str = ""
    """Why it waits."""
    waited_s: float = 0.0
    """With a place: how long it took."""
    backfilled: bool = False
    """With a place: whether it passed jobs that it cannot delay."""
    makes_room_for: Request | None = None
    """The job for which this one is to leave its place."""
    lost_nodes: tuple[str, ...] = ()
    """The nodes of its place that are gone, so that nothing new can start there."""
    is_settled: bool = False
    """With a place: whether it has had it for so long that it may give a part of it back."""


class Keeper:
    """The queue and what it knows of the drivers.

    Args:
        now: seconds since the epoch, as in all methods.
        lease_s: see ``LEASE_S``.
        grace_s: see ``GRACE_S``.
        growth_pause_s: see ``grow.GROWTH_PAUSE_S``.
    """

    def __init__(
        self,
        now: float,
        *,
        lease_s: float = LEASE_S,
        grace_s: float = GRACE_S,
        growth_pause_s: float = GROWTH_PAUSE_S,
    ) -> None:
        self._queue = SharedQueue(growth_pause_s)
        self._lease_s = lease_s
        self._open_at = now + grace_s
        self._heard: dict[str, float] = {}
        self._turns: dict[str, str] = {}
        self._grants: dict[str, Granted] = {}
        self._limits: tuple[int | None, int | None] = (None, None)
        self._has_changed = True

    def look(self, states: Sequence[NodeState], limits: tuple[int | None, int | None], now: float) -> None:
        """Take over the state of the live nodes, and give the places of dead drivers back.

        Args:
            states: the live nodes.
            limits: CPUs and GPUs that the cluster may grow to; None where nobody says.
            now: seconds since the epoch.
        """
        for key in [key for key, heard in self._heard.items() if now - heard > self._lease_s]:
            self._forget(key)
        self._queue.refresh(states)
        self._limits = limits
        self._has_changed = True

    def report(self, report: Report, now: float) -> Answer:
        """Take over what a driver says, and answer it."""
        request, key = report.request, report.request.key
        if self._turns.get(key, report.turn) != report.turn:
            self._forget(key)
        self._heard[key], self._turns[key] = now, report.turn
        running = self._queue.running.get(key)
        if report.uses is None:
            self._has_changed |= running is None and key not in self._queue.waiting
            self._queue.submit(request, now)
        elif running is None or report.uses not in (running.uses, running.before):
            self._queue.release(key)
            self._queue.adopt(request, report.uses, report.held_since)
            self._has_changed = True
        else:
            self._has_changed |= self._queue.tell_wanted(key, request.wanted_workers)
        self._decide(now)
        return self._answer(key, now)

    def leave(self, key: str, turn: str) -> None:
        """A job has ended; nothing where a later driver of the job reports already."""
        if self._turns.get(key) == turn:
            self._forget(key)

    def _forget(self, key: str) -> None:
        self._queue.release(key)
        for memory in (self._heard, self._turns, self._grants):
            memory.pop(key, None)
        self._has_changed = True

    def _decide(self, now: float) -> None:
        if not self._has_changed or now < self._open_at or not self._queue.nodes.names:
            return
        self._has_changed = False
        for decision in self._queue.decide(now):
            if isinstance(decision, Granted):
                self._grants[decision.key] = decision

    def _answer(self, key: str, now: float) -> Answer:
        queue = self._queue
        again_s = max(REPORT_EVERY_S, len(self._heard) / MOST_REPORTS_PER_S)
        num_waiting = len(queue.waiting)
        job = queue.running.get(key)
        if job is None:
            return Answer(
                uses=None,
                again_s=again_s,
                position=queue.waiting.ahead_of(key) + 1,
                num_waiting=num_waiting,
                reason=NOT_HEARD_YET if now < self._open_at else reason_of(queue, key, self._limits),
            )
        grant = self._grants.get(key)
        return Answer(
            uses=job.uses,
            again_s=again_s,
            num_waiting=num_waiting,
            waited_s=grant.waited_s if grant else 0.0,
            backfilled=grant is not None and grant.backfilled,
            makes_room_for=job.asked_for,
            lost_nodes=queue.lost_nodes(key),
            is_settled=queue.is_settled(key, now),
        )
