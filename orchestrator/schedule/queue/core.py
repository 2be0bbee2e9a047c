"""The queue's decisions: who starts, who waits and why, who makes room. Pure: time is an argument, Ray is not here.

Order: priority, then the time of submission. The first job that waits for resources is the *head*. Jobs behind it start
where that cannot delay it (``backfill``). Jobs that their account's quota holds up, or that would not fit even an empty
cluster, are passed over: they are not waiting for what others hold. A head that outranks running jobs which can leave
with a checkpoint has the least of them leave, if that makes it fit (``preempt``).

Elastic jobs wait and start with the least of their workers, and take more where nobody waits for it (``grow``), as far
as they ask for them, without ever giving up what they hold. One that has more gives way to a head of its own priority,
if both then fit: it leaves as for one that outranks it, and waits at its old rank for the least. One that has more than
it asks for gives the rest back by itself, once it ``is_settled``.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import count
from operator import attrgetter, itemgetter

from orchestrator.schedule.queue.backfill import left_by
from orchestrator.schedule.queue.fit import Amounts, is_hopeless, layout_of, num_fitting, sums_of
from orchestrator.schedule.queue.grow import GROWTH_PAUSE_S, fit_together, larger_place
from orchestrator.schedule.queue.nodes import Nodes
from orchestrator.schedule.queue.preempt import Candidate, Room
from orchestrator.schedule.queue.values import Decision, Demand, Granted, Grown, NodeState, Preempt, Quota, Request, Use
from orchestrator.schedule.queue.waiting import Shape, Waiting, WaitingLines


@dataclass(slots=True)
class Running:
    """One job that holds a place."""

    request: Request
    uses: tuple[Use, ...]
    started: float
    """Seconds since the epoch."""
    asked_for: Request | None = None
    """The job that it was asked to make room for; an asking is not taken back."""
    before: tuple[Use, ...] | None = None
    """Its place before it grew to this one, which its driver may not have heard of; None where it has not grown."""


class SharedQueue:
    """Jobs that wait and jobs that hold a place on the nodes of one cluster.

    Args:
        growth_pause_s: see ``grow.GROWTH_PAUSE_S``.
    """

    def __init__(self, growth_pause_s: float = GROWTH_PAUSE_S) -> None:
        self.nodes = Nodes()
        self.waiting = WaitingLines()
        self.running: dict[str, Running] = {}
        self.quotas: dict[str, Quota] = {}
        """By account, as told last."""
        self.held: dict[str, Counter[str]] = {}
        """By account: ``cpu`` and ``gpu`` of its running jobs."""
        self.head: Waiting | None = None
        """The first job that waits for resources, as of the last decision."""
        self.left: Amounts = self.nodes.free.copy()
        """What jobs behind the head may take."""
        self._numbers = count()
        self._left_for: tuple[Demand, int] | None = None
        """The head's demand and the revision of the ledger that ``left`` was made for."""
        self._left_sums = (0, 0)
        self._did_not_fit_behind: set[Demand] = set()
        """What did not fit into ``left``, which has only shrunk since."""
        self._room = Room(self.nodes)
        self._growth_pause_s = growth_pause_s
        self._elastic: dict[str, Running] = {}

    def submit(self, request: Request, now: float) -> None:
        """Let a job wait; one that waits or runs already only tells its quota anew."""
        self._tell_quota(request)
        if request.key not in self.running and request.key not in self.waiting:
            rank = (-request.priority, request.submitted, next(self._numbers))
            self.waiting.add(Waiting(request, rank, now))

    def adopt(self, request: Request, uses: tuple[Use, ...], started: float) -> None:
        """Book a place that a job holds, as its driver says: the queue was not there when it was granted."""
        self._tell_quota(request)
        if request.key in self.running:
            return
        if request.key in self.waiting:
            self.waiting.remove(request.key)
        self._book(request, uses, started)

    def tell_wanted(self, key: str, workers: int | None) -> bool:
        """Take over how many workers a running job asks for; whether that is another number than before."""
        job = self.running[key]
        if job.request.wanted_workers == workers:
            return False
        job.request = replace(job.request, wanted_workers=workers)
        return True

    def release(self, key: str) -> None:
        """End a job's wait or give its place back; nothing where the queue does not know it."""
        if key in self.waiting:
            self.waiting.remove(key)
        job = self.running.get(key)
        if job is not None:
            self._unbook(job)
            self.waiting.unpark(job.request.account)

    def refresh(self, states: Sequence[NodeState]) -> None:
        """Take over the state of the live nodes."""
        self.nodes.refresh(states)

    def lost_nodes(self, key: str) -> tuple[str, ...]:
        """The nodes of a job's place that are gone."""
        return tuple(use.node for use in self.running[key].uses if use.node not in self.nodes)

    def decide(self, now: float) -> list[Decision]:
        """Start whoever can start, then ask for room where that helps the head; without a head let jobs grow."""
        decisions: list[Decision] = []
        shapes = [
            (first.rank, number, shape)
            for number, shape in enumerate(self.waiting.shapes.values())
            if (first := self.waiting.first(shape)) is not None
        ]
        heapq.heapify(shapes)
        self.head = None
        while shapes:
            _, number, shape = heapq.heappop(shapes)
            if not self._is_in_play(shape):
                continue
            first = self.waiting.first(shape)
            assert first is not None  # it had one when it was put on the heap
            if self.over_quota(first.request):
                self.waiting.park(first)
            elif self.head is not None:
                decisions.append(self._grant(first, self.left, now, backfilled=True))
            elif self._fits_now(shape):
                decisions.append(self._grant(first, self.nodes.free, now, backfilled=False))
            else:
                self._make_head(first)
                continue
            after = self.waiting.first(shape)
            if after is not None:
                heapq.heappush(shapes, (after.rank, number, shape))
        if self.head is not None:
            return decisions + self._ask_for_room(self.head, now)
        return decisions + self._grow({decision.key for decision in decisions}, now)

    def over_quota(self, request: Request) -> bool:
        """Whether a job would hold more than its account may together with what the account holds now."""
        quota, held = self.quotas[request.account], self.held.get(request.account, Counter())
        demand = request.demand
        return (quota.gpu is not None and held["gpu"] + demand.total_gpu > quota.gpu and demand.total_gpu > 0) or (
            quota.cpu is not None and held["cpu"] + demand.total_cpu > quota.cpu
        )

    def is_feasible(self, demand: Demand) -> bool:
        """Whether a demand would fit the live nodes if they were empty."""
        return num_fitting(demand, self.nodes.total) >= demand.workers

    def is_settled(self, key: str, now: float) -> bool:
        """Whether a running job may be interrupted for another number of workers."""
        return self._is_settled(self.running[key], now)

    def asked_for(self, key: str) -> list[str]:
        """The jobs that were asked to make room for one."""
        return [other for other, job in self.running.items() if job.asked_for is not None and job.asked_for.key == key]

    def _is_in_play(self, shape: Shape) -> bool:
        """Whether jobs of this shape could be the head, or behind one, start."""
        version, is_feasible = shape.is_feasible_at
        if version != self.nodes.version:
            is_feasible = self.is_feasible(shape.demand)
            shape.is_feasible_at = (self.nodes.version, is_feasible)
        return is_feasible and (self.head is None or self._fits_behind(shape.demand))

    def _fits_now(self, shape: Shape) -> bool:
        """Remembers a no: until the ledger changes, free resources only shrink."""
        if shape.did_not_fit_at == self.nodes.revision:
            return False
        if num_fitting(shape.demand, self.nodes.free) >= shape.demand.workers:
            return True
        shape.did_not_fit_at = self.nodes.revision
        return False

    def _fits_behind(self, demand: Demand) -> bool:
        """Whether it fits into what the head leaves; remembers a no."""
        if is_hopeless(demand, self._left_sums) or demand in self._did_not_fit_behind:
            return False
        if num_fitting(demand, self.left) >= demand.workers:
            return True
        self._did_not_fit_behind.add(demand)
        return False

    def _make_head(self, job: Waiting) -> None:
        self.head = job
        if self._left_for == (job.request.demand, self.nodes.revision):
            return
        self._left_for = (job.request.demand, self.nodes.revision)
        self.left = left_by(job.request.demand, self.nodes)
        self._left_sums = sums_of(self.left)
        self._did_not_fit_behind.clear()

    def _grant(self, job: Waiting, free: Amounts, now: float, *, backfilled: bool) -> Granted:
        layout = layout_of(job.request.demand, free)
        assert layout is not None  # it was counted a moment ago
        request = self.waiting.remove(job.request.key).request
        uses = self.nodes.uses_of(layout)
        self._book(request, uses, now)
        return Granted(request.key, uses, now - job.since, backfilled)

    def _book(self, request: Request, uses: tuple[Use, ...], started: float) -> None:
        job = self.running[request.key] = Running(request, uses, started)
        place = self.nodes.take(request.key, request.demand, uses)
        if self.left.shape == self.nodes.free.shape:
            place.add_to(self.left, -1)
        if request.preemptible:
            self._room.add(_candidate(job))
        if request.max_workers > request.demand.workers:
            self._elastic[request.key] = job
        held = self.held.setdefault(request.account, Counter())
        held.update(_amounts(job))

    def _unbook(self, job: Running) -> None:
        key = job.request.key
        del self.running[key]
        self._elastic.pop(key, None)
        if job.request.preemptible:
            self._room.remove(_candidate(job))
        self.nodes.give_back(key)
        self.held[job.request.account].subtract(_amounts(job))

    def _tell_quota(self, request: Request) -> None:
        if self.quotas.get(request.account) != request.quota:
            self.quotas[request.account] = request.quota
            self.waiting.unpark(request.account)

    def _ask_for_room(self, head: Waiting, now: float) -> list[Preempt]:
        request = head.request
        victims = self._room.victims_for(request.demand, request.priority) or self._sharers(head, now)
        for victim in victims:
            self._room.ask(victim)
            self.running[victim.key].asked_for = request
        return [Preempt(victim.key, request.key) for victim in victims]

    def _sharers(self, head: Waiting, now: float) -> tuple[Candidate, ...]:
        """Elastic jobs of the head's own priority that make room for it by going on with fewer workers.

        One where one is enough, else those that started last; nobody where not even all of them would do.
        """
        coming = self._room.coming()
        if num_fitting(head.request.demand, coming) >= head.request.demand.workers:
            return ()
        jobs = [
            job
            for job in self._elastic.values()
            if job.request.priority == head.request.priority
            and job.request.preemptible
            and self._is_settled(job, now)
            and _num_workers(job) > job.request.demand.workers
        ]
        jobs.sort(key=attrgetter("started"), reverse=True)
        sets = [*([job] for job in jobs), *(jobs[:size] for size in range(2, len(jobs) + 1))]
        enough = next((those for those in sets if self._would_share(head, those, coming)), [])
        return tuple(map(_candidate, enough))

    def _would_share(self, head: Waiting, jobs: Sequence[Running], coming: Amounts) -> bool:
        """Whether the head and the least that these need fit in the order in which they would start."""
        free = coming.copy()
        for job in jobs:
            self.nodes.place(job.request.key).add_to(free)
        ranked = [((-job.request.priority, job.request.submitted, math.inf), job.request.demand) for job in jobs]
        ranked.append((head.rank, head.request.demand))
        ranked.sort(key=itemgetter(0))
        return fit_together([demand for _, demand in ranked], free)

    def _is_settled(self, job: Running, now: float) -> bool:
        return job.asked_for is None and now - job.started >= self._growth_pause_s

    def _grow(self, just_started: Collection[str], now: float) -> list[Grown]:
        """Give elastic jobs what nobody waits for, in their order; scripts only as they start."""
        may = [
            job
            for key, job in self._elastic.items()
            if key in just_started or (job.request.preemptible and self._is_settled(job, now))
            if not self.waiting.is_held_up(job.request.account)
        ]
        may.sort(key=lambda job: (-job.request.priority, job.request.submitted))
        grown = []
        for job in may:
            request, uses = job.request, job.uses
            larger = larger_place(request.demand, uses, self._most_workers(job), self.nodes)
            if larger is not None:
                self._unbook(job)
                self._book(request, larger, now)
                self.running[request.key].before = uses
                grown.append(Grown(request.key, larger))
        return grown

    def _most_workers(self, job: Running) -> int:
        """What a job may have within its range, what it asks for and its account's quota."""
        request = job.request
        most = min(request.max_workers, request.wanted_workers or request.max_workers)
        quota, held = self.quotas[request.account], self.held[request.account]
        for limit, has, each in (
            (quota.cpu, held["cpu"], request.demand.cpu),
            (quota.gpu, held["gpu"], request.demand.gpu),
        ):
            if limit is not None and each:
                most = min(most, _num_workers(job) + (limit - has) // each)
        return most


def _candidate(job: Running) -> Candidate:
    return Candidate(job.request.key, job.request.priority, job.started)


def _num_workers(job: Running) -> int:
    return sum(use.workers for use in job.uses)


def _amounts(job: Running) -> dict[str, int]:
    """What a place counts against its account's quota."""
    held = job.request.demand.held_by(job.uses)
    return {"cpu": held.total_cpu, "gpu": held.total_gpu}
