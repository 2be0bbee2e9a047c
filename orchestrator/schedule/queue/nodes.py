"""The ledger of the nodes: what they have, what grants take of them, what others use. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.schedule.queue.fit import CPU, GPU, Amounts, Counts, Layout
from orchestrator.schedule.queue.values import Demand, NodeState, Use

Ratio = tuple[int, int]
"""CPUs and GPUs of a worker."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a grant takes, by the numbers of its live nodes."""

    demand: Demand
    uses: tuple[Use, ...]
    numbers: NDArray[np.intp]
    amounts: Amounts

    @classmethod
    def of(cls, demand: Demand, uses: tuple[Use, ...], numbers: Mapping[str, int]) -> Place:
        """A place on the nodes that have numbers."""
        alive = [use for use in uses if use.node in numbers]
        cpu = [use.workers * demand.cpu + use.shards * demand.shard_cpu for use in alive]
        gpu = [use.workers * demand.gpu for use in alive]
        rows = np.array([numbers[use.node] for use in alive], dtype=np.intp)
        return cls(demand, uses, rows, np.array([cpu, gpu], dtype=np.int64).reshape(2, -1))

    def add_to(self, amounts: Amounts, sign: int = 1) -> None:
        """Add what it takes to amounts, or with a sign of -1 take it away."""
        amounts[:, self.numbers] += sign * self.amounts


class Nodes:
    """Resources of all live nodes in ten-thousandths.

    ``free`` is what neither a grant nor anybody outside the queue has. ``revision`` changes with everything but new
    grants: what did not fit does not fit before it has changed.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.total: Amounts = np.zeros((2, 0), dtype=np.int64)
        self.free: Amounts = np.zeros((2, 0), dtype=np.int64)
        self.others: Amounts = np.zeros((2, 0), dtype=np.int64)
        """What programs outside the queue use, as far as it is seen."""
        self.revision = 0
        self.version = 0
        """Changes with the nodes themselves, or what they have in all."""
        self._numbers: dict[str, int] = {}
        self._places: dict[str, Place] = {}
        self._deficits: dict[Ratio, Counts] = {}

    def __contains__(self, node: str) -> bool:
        return node in self._numbers

    def refresh(self, states: Sequence[NodeState]) -> None:
        """Take over what Ray says of the live nodes.

        What Ray has given away beyond the grants belongs to others. A grant whose processes have not started is not
        seen in Ray's numbers, so others may be taken for less than they are until it has.
        """
        names = [state.node for state in states]
        total = np.array([[s.cpu for s in states], [s.gpu for s in states]], dtype=np.int64)
        taken = total - np.array([[s.free_cpu for s in states], [s.free_gpu for s in states]], dtype=np.int64)
        if names != self.names or not np.array_equal(total, self.total):
            self.names, self.total = names, total
            self._numbers = {name: number for number, name in enumerate(names)}
            self._deficits.clear()
            self.version += 1
            self._places = {
                key: Place.of(place.demand, place.uses, self._numbers) for key, place in self._places.items()
            }
        used = np.zeros_like(total)
        for place in self._places.values():
            place.add_to(used)
        self.others = np.maximum(taken - used, 0)
        free = total - self.others - used
        if not np.array_equal(free, self.free):
            self.revision += 1
        self.free = free

    def take(self, key: str, demand: Demand, uses: tuple[Use, ...]) -> Place:
        """Book a grant."""
        place = self._places[key] = Place.of(demand, uses, self._numbers)
        place.add_to(self.free, -1)
        self._change_deficits(place, 1)
        return place

    def give_back(self, key: str) -> None:
        """End a grant."""
        place = self._places.pop(key)
        place.add_to(self.free)
        self._change_deficits(place, -1)
        self.revision += 1

    def place(self, key: str) -> Place:
        """What a grant takes now that some of its nodes may be gone."""
        return self._places[key]

    def uses_of(self, layout: Layout) -> tuple[Use, ...]:
        """A layout under the nodes' names."""
        rows = zip(layout.nodes.tolist(), layout.workers.tolist(), layout.shards.tolist(), strict=True)
        return tuple(Use(self.names[node], workers, shards) for node, workers, shards in rows)

    def deficit(self, ratio: Ratio) -> Counts:
        """How far CPUs may fall behind GPUs on each node when grants end, for workers of this ratio.

        A grant that holds ``c`` CPUs and ``g`` GPUs of a node, and ends, changes CPUs x ratio's GPUs - GPUs x ratio's
        CPUs by ``c * ratio[GPU] - g * ratio[CPU]``. This is minus the sum of those changes that are negative, so that
        whichever grants end, the difference falls by no more. What others use may come back in any part.
        """
        if ratio not in self._deficits:
            deficit = np.zeros(len(self.names), dtype=np.int64)
            for place in self._places.values():
                deficit[place.numbers] += _shortfall(place, ratio)
            self._deficits[ratio] = deficit
        of_others: Counts = self.others[GPU] * ratio[CPU]
        return self._deficits[ratio] + of_others

    def _change_deficits(self, place: Place, sign: int) -> None:
        for ratio, deficit in self._deficits.items():
            deficit[place.numbers] += sign * _shortfall(place, ratio)


def _shortfall(place: Place, ratio: Ratio) -> Counts:
    """How far the difference that ``deficit`` is about falls on each node of a place when its grant ends."""
    shortfall: Counts = np.maximum(place.amounts[GPU] * ratio[CPU] - place.amounts[CPU] * ratio[GPU], 0)
    return shortfall
