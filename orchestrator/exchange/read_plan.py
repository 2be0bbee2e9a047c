"""Which weights the gradients of each update are computed at, and how many versions must be kept for that. No torch."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Protocol

from orchestrator.spec.methods.asynchronous import Delayed
from orchestrator.spec.push_order import OrderedPush


class ReadPlan(Protocol):
    """Known in advance, so that a version of the weights has a slot for as long as it may be read."""

    num_workers: int
    """Workers that the delay stands for."""
    num_slots: int
    """Versions that are kept at one time."""

    def pushes(self, update: int) -> Sequence[OrderedPush]:
        """What makes an update."""

    def slot(self, version: int) -> int | None:
        """Where a version is kept; None where nobody will read it."""


class FixedDelay:
    """Every gradient is ``steps`` updates old, as of ``steps`` + 1 workers that take turns; the first ones less."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.num_workers = self.num_slots = steps + 1

    def pushes(self, update: int) -> Sequence[OrderedPush]:
        """See ``ReadPlan``."""
        read_version = max(0, update - self._steps)
        return (OrderedPush(update, update % self.num_workers, chunk=update, read_version=read_version),)

    def slot(self, version: int) -> int | None:
        """See ``ReadPlan``."""
        return version % self.num_slots


class Listed:
    """What an order file says.

    Args:
        order: all pushes of the training.
    """

    def __init__(self, order: Sequence[OrderedPush]) -> None:
        self._pushes: dict[int, list[OrderedPush]] = {}
        for push in order:
            self._pushes.setdefault(push.update, []).append(push)
        self.pushes_per_update = len(self._pushes[0])
        """Of all updates but the last, which takes what is left."""
        self.num_workers = 1 + max(push.worker for push in order)
        self._slots = _slots(order)
        self.num_slots = 1 + max(self._slots.values())

    def pushes(self, update: int) -> Sequence[OrderedPush]:
        """See ``ReadPlan``."""
        return self._pushes[update]

    def slot(self, version: int) -> int | None:
        """See ``ReadPlan``."""
        return self._slots.get(version)


def read_plan(config: Delayed, order: Sequence[OrderedPush] | None) -> FixedDelay | Listed:
    """The plan of an exchange; ``order`` is what its file holds."""
    if order is not None:
        return Listed(order)
    assert config.steps is not None  # the spec has one of both
    return FixedDelay(config.steps)


def _slots(order: Sequence[OrderedPush]) -> dict[int, int]:
    """A slot for each version that is read, from when it is made to its last reading."""
    last_read = {push.read_version: push.update for push in order}
    slots: dict[int, int] = {}
    used: list[tuple[int, int]] = []
    free: list[int] = []
    for version in sorted(last_read):
        while used and used[0][0] < version:
            heapq.heappush(free, heapq.heappop(used)[1])
        slots[version] = heapq.heappop(free) if free else len(used)
        heapq.heappush(used, (last_read[version], slots[version]))
    return slots
