"""Which running jobs make room for one that outranks them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from operator import attrgetter

import numpy as np

from orchestrator.schedule.queue.fit import Amounts, layout_of, num_fitting
from orchestrator.schedule.queue.nodes import Nodes
from orchestrator.schedule.queue.values import Demand

MAX_SETS_TRIED = 500
"""Sets of victims that are looked at one by one; beyond, victims are taken in order and spared where they can be."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running job that could make room."""

    key: str
    priority: int
    started: float
    """When it was granted its place; the latest has least to lose."""


class Room:
    """The jobs that could make room, and those that do so already, with sums of what they hold.

    Thanks to the sums most heads are told at once that nobody can help them.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._version = -1
        self._jobs: dict[int, dict[str, Candidate]] = {}
        self._sums: dict[int, Amounts] = {}
        self._leaving: set[str] = set()

    def add(self, candidate: Candidate) -> None:
        """A job has been given a place and could be asked to leave it."""
        self._jobs.setdefault(candidate.priority, {})[candidate.key] = candidate
        self._change_sum(candidate, 1)

    def ask(self, candidate: Candidate) -> None:
        """A job has been asked."""
        self._change_sum(candidate, -1)
        del self._jobs[candidate.priority][candidate.key]
        self._leaving.add(candidate.key)

    def remove(self, candidate: Candidate) -> None:
        """A job is about to give its place back."""
        if candidate.key in self._leaving:
            self._leaving.remove(candidate.key)
        else:
            self._change_sum(candidate, -1)
            del self._jobs[candidate.priority][candidate.key]

    def coming(self) -> Amounts:
        """What is free, or will be when those have left that have been asked."""
        coming = self._nodes.free.copy()
        for key in self._leaving:
            self._nodes.place(key).add_to(coming)
        return coming

    def victims_for(self, demand: Demand, priority: int) -> tuple[Candidate, ...]:
        """Whom to ask for a demand of this priority.

        Nobody where it fits as soon as those have left that leave, or not even all jobs of lower priority would help.
        """
        coming = self.coming()
        if num_fitting(demand, coming) >= demand.workers or not self._may_help(demand, priority, coming):
            return ()
        below = [job for other, jobs in self._jobs.items() if other < priority for job in jobs.values()]
        return choose_victims(demand, self._nodes, coming, below)

    def _may_help(self, demand: Demand, priority: int, coming: Amounts) -> bool:
        if self._version != self._nodes.version:
            self._version = self._nodes.version
            self._sums.clear()
            for jobs in self._jobs.values():
                for candidate in jobs.values():
                    self._change_sum(candidate, 1)
        sums = [amounts for other, amounts in self._sums.items() if other < priority]
        return num_fitting(demand, coming + sum(sums)) >= demand.workers

    def _change_sum(self, candidate: Candidate, sign: int) -> None:
        if self._version == self._nodes.version:
            total = self._sums.setdefault(candidate.priority, np.zeros_like(self._nodes.total))
            self._nodes.place(candidate.key).add_to(total, sign)


def choose_victims(
    demand: Demand, nodes: Nodes, coming: Amounts, candidates: Sequence[Candidate]
) -> tuple[Candidate, ...]:
    """The fewest jobs whose end makes room; among as few, those of lowest priority, then those started last.

    Exact as long as no more than ``MAX_SETS_TRIED`` sets have to be looked at. Beyond that, jobs are taken from the
    lowest priority and the latest start on until the demand fits, and those that turn out not to be needed are spared.

    Args:
        demand: what has to fit; it does not fit into ``coming``.
        nodes: the ledger.
        coming: what is free, or will be when those have left that have been asked.
        candidates: jobs that may be asked.

    Returns:
        Nobody where not even all candidates together would help.
    """
    ranked = sorted(candidates, key=attrgetter("started"), reverse=True)
    ranked.sort(key=attrgetter("priority"))
    num_tried = 0
    for size in range(1, len(ranked) + 1):
        num_tried += comb(len(ranked), size)
        if num_tried > MAX_SETS_TRIED:
            return _in_order(demand, nodes, coming, ranked)
        enough = [jobs for jobs in combinations(ranked, size) if _helps(demand, nodes, coming, jobs)]
        if enough:
            return min(enough, key=_harm)
    return ()


def _helps(demand: Demand, nodes: Nodes, coming: Amounts, jobs: Sequence[Candidate]) -> bool:
    free = coming.copy()
    for job in jobs:
        nodes.place(job.key).add_to(free)
    return num_fitting(demand, free) >= demand.workers


def _harm(victims: Sequence[Candidate]) -> tuple[list[int], list[float]]:
    """Of sets of one size the least is chosen: first by the highest priority in it, then by the earliest start."""
    priorities = sorted((victim.priority for victim in victims), reverse=True)
    return priorities, sorted((-victim.started for victim in victims), reverse=True)


def _in_order(demand: Demand, nodes: Nodes, coming: Amounts, ranked: Sequence[Candidate]) -> tuple[Candidate, ...]:
    free = coming.copy()

    def change(jobs: Sequence[Candidate], sign: int) -> bool:
        for job in jobs:
            nodes.place(job.key).add_to(free, sign)
        return num_fitting(demand, free) >= demand.workers

    too_few, enough = 0, 1
    while not change(ranked[too_few:enough], 1):
        if enough >= len(ranked):
            return ()
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if change(ranked[middle:enough], -1):
            enough = middle
        else:
            change(ranked[middle:enough], 1)
            too_few = middle
    return _needed(demand, nodes, free, ranked[:enough])


def _needed(demand: Demand, nodes: Nodes, free: Amounts, chosen: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those of the chosen, whose places ``free`` counts in, without whom the demand does not fit."""
    layout = layout_of(demand, free)
    assert layout is not None  # it fits thanks to them
    is_used = np.zeros(free.shape[1], dtype=bool)
    is_used[layout.nodes] = True
    needed = []
    for job in chosen:
        place = nodes.place(job.key)
        if is_used[place.numbers].any():
            needed.append(job)
        else:
            place.add_to(free, -1)
    # Of the others the one that has most to lose is spared first.
    for job in reversed(tuple(needed)):
        place = nodes.place(job.key)
        place.add_to(free, -1)
        if num_fitting(demand, free) >= demand.workers:
            needed.remove(job)
        else:
            place.add_to(free)
    return tuple(needed)
