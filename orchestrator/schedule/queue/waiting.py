"""The jobs that wait, in the order in which they would like to start, found by what they need. Pure.

Thousands of jobs ask for few different things, and a demand that does not fit does not fit for any of them. So jobs are
kept by demand and account: a decision looks at the first job of each demand only.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from dataclasses import dataclass, field

from orchestrator.schedule.queue.values import Demand, Request

Rank = tuple[int, float, int]
"""Minus the priority, when it was submitted, when the queue heard of it: the least goes first."""


@dataclass(slots=True)
class Waiting:
    """One job that waits."""

    request: Request
    rank: Rank
    since: float
    """Seconds since the epoch."""


@dataclass(slots=True, eq=False)
class Line:
    """The jobs of one demand and one account."""

    demand: Demand
    account: str
    heap: list[tuple[Rank, str]] = field(default_factory=list)
    """Those that have gone are passed over."""
    entry: Rank | None = None
    """What stands for the line among those of its shape; None while it is parked or empty."""


@dataclass(slots=True, eq=False)
class Shape:
    """All lines of one demand, and what was last found out about it."""

    demand: Demand
    heap: list[tuple[Rank, Line]] = field(default_factory=list)
    """The lines that are not held up by their account's quota, by the rank of their first job; entries that are no
    longer the line's own are passed over."""
    did_not_fit_at: int = -1
    """Revision of the ledger at which it did not fit; it does not fit until that has changed."""
    first: Waiting | None = None
    """The first job of all lines, as long as nothing has changed."""
    has_changed: bool = True
    is_feasible_at: tuple[int, bool] = (-1, False)
    """Version of the nodes, and whether it would fit if they were all empty."""


class WaitingLines:
    """All waiting jobs, by rank over all of them, and by the lines of each shape."""

    def __init__(self) -> None:
        self.shapes: dict[Demand, Shape] = {}
        self._jobs: dict[str, Waiting] = {}
        self._lines: dict[tuple[Demand, str], Line] = {}
        self._parked: dict[str, set[Line]] = {}
        self._order: list[Rank] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, key: str) -> bool:
        return key in self._jobs

    def __getitem__(self, key: str) -> Waiting:
        return self._jobs[key]

    def ahead_of(self, key: str) -> int:
        """How many jobs are ahead of one."""
        return bisect_left(self._order, self._jobs[key].rank)

    def add(self, job: Waiting) -> None:
        """Add a job to its line."""
        request = job.request
        self._jobs[request.key] = job
        insort(self._order, job.rank)
        shape = self.shapes.setdefault(request.demand, Shape(request.demand))
        line = self._lines.setdefault((request.demand, request.account), Line(request.demand, request.account))
        heapq.heappush(line.heap, (job.rank, request.key))
        if line.heap[0][0] == job.rank and line not in self._parked.get(request.account, ()):
            self._enter(shape, line, job.rank)

    def remove(self, key: str) -> Waiting:
        """Take a job out."""
        job = self._jobs.pop(key)
        self.shapes[job.request.demand].has_changed = True
        del self._order[bisect_left(self._order, job.rank)]
        return job

    def first(self, shape: Shape) -> Waiting | None:
        """The first job of a shape whose line is not parked."""
        if shape.has_changed:
            shape.first, shape.has_changed = self._find_first(shape), False
        return shape.first

    def park(self, job: Waiting) -> None:
        """Pass over a job's line until ``unpark``: its account's quota holds all of it up."""
        line = self._lines[job.request.demand, job.request.account]
        self._parked.setdefault(line.account, set()).add(line)
        line.entry = None
        self.shapes[line.demand].has_changed = True

    def unpark(self, account: str) -> None:
        """An account's quota or use has changed: look at its lines again."""
        for line in self._parked.pop(account, ()):
            first = self._first_of(line)
            self._enter(self.shapes[line.demand], line, None if first is None else first.rank)

    def is_held_up(self, account: str) -> bool:
        """Whether jobs of an account wait for its quota, as far as the last decision has found out."""
        return any(self._first_of(line) is not None for line in self._parked.get(account, ()))

    def _find_first(self, shape: Shape) -> Waiting | None:
        while shape.heap:
            rank, line = shape.heap[0]
            if rank == line.entry:
                first = self._first_of(line)
                if first is not None and first.rank == rank:
                    return first
                self._enter(shape, line, None if first is None else first.rank)
            else:
                heapq.heappop(shape.heap)
        return None

    @staticmethod
    def _enter(shape: Shape, line: Line, rank: Rank | None) -> None:
        line.entry, shape.has_changed = rank, True
        if rank is not None:
            heapq.heappush(shape.heap, (rank, line))

    def _first_of(self, line: Line) -> Waiting | None:
        while line.heap:
            rank, key = line.heap[0]
            job = self._jobs.get(key)
            if job is not None and job.rank == rank:
                return job
            heapq.heappop(line.heap)
        return None
