"""Whether and where a gang fits: all of its workers and shards, by whole ones per node. Pure; arrays over nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.schedule.queue.values import Demand

Amounts = NDArray[np.int64]
"""Of shape (2, nodes): CPUs and GPUs in ten-thousandths."""
Counts = NDArray[np.int64]
"""Of shape (nodes,)."""
CPU, GPU = 0, 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a gang goes."""

    nodes: NDArray[np.intp]
    """Numbers of the nodes that it uses, each once."""
    workers: Counts
    """Workers on each of them."""
    shards: Counts
    """Shards on each of them."""


def places(demand: Demand, free: Amounts) -> Counts:
    """Workers that each node has room for."""
    room: Counts = np.maximum(free[CPU] // demand.cpu, 0)
    if demand.gpu:
        room = np.minimum(room, np.maximum(free[GPU] // demand.gpu, 0))
    return room


def usable_places(demand: Demand, room: Counts) -> int:
    """Workers that the placement strategy can use of the room on each node."""
    if demand.placement == "strict_spread":
        return int(np.count_nonzero(room))
    if demand.placement == "strict_pack":
        return int(room.max(initial=0))
    return int(room.sum())


def is_hopeless(demand: Demand, sums: tuple[int, int]) -> bool:
    """Whether a demand is more than all nodes have together; a quick look before the exact one."""
    return demand.total_cpu > sums[CPU] or demand.total_gpu > sums[GPU]


def sums_of(free: Amounts) -> tuple[int, int]:
    """CPUs and GPUs of all nodes together."""
    cpu, gpu = np.maximum(free, 0).sum(axis=1).tolist()
    return cpu, gpu


def num_fitting(demand: Demand, free: Amounts) -> int:
    """Workers that could start now, beside all shards; the gang fits where these are all of its workers."""
    if demand.shards:
        left, shards = _with_shards(demand, free)
        return 0 if shards is None else usable_places(demand, places(demand, left))
    return usable_places(demand, places(demand, free))


def layout_of(demand: Demand, free: Amounts) -> Layout | None:
    """Where all workers and shards go; None where they do not fit.

    ``pack`` takes one node where it can, the one with least room to spare, else the nodes with most room; CPU jobs keep
    off nodes with free GPUs where they can. Shards go first, each to the node with most free CPUs.
    """
    shards: Counts | None = None
    if demand.shards:
        free, shards = _with_shards(demand, free)
        if shards is None:
            return None
    room = places(demand, free)
    if usable_places(demand, room) < demand.workers:
        return None
    nodes, workers = _choose(demand, room, free)
    if shards is None:
        return Layout(nodes, workers, np.zeros(len(nodes), dtype=np.int64))
    all_workers = np.zeros(len(room), dtype=np.int64)
    all_workers[nodes] = workers
    used = np.flatnonzero(all_workers + shards)
    return Layout(used, all_workers[used], shards[used])


def _choose(demand: Demand, room: Counts, free: Amounts) -> tuple[NDArray[np.intp], Counts]:
    candidates = np.flatnonzero(room)
    room = room[candidates]
    spare = (room, free[GPU, candidates]) if not demand.gpu else (free[GPU, candidates], room)
    if demand.placement in ("spread", "strict_spread"):
        level = 1
        while int(np.minimum(room, level).sum()) < demand.workers:
            level += 1
        # Everybody has level - 1 workers; those with room to spare take the rest, one each.
        workers = np.minimum(room, level - 1)
        can_take = np.flatnonzero(room >= level)
        order = can_take[np.lexsort(tuple(key[can_take] for key in spare))]
        workers[order[: demand.workers - int(workers.sum())]] += 1
    else:
        workers = np.zeros(len(room), dtype=np.int64)
        enough = np.flatnonzero(room >= demand.workers)
        if len(enough):
            best = enough[np.lexsort(tuple(key[enough] for key in spare))[0]]
            workers[best] = demand.workers
        else:
            order = np.argsort(-room, kind="stable")
            before = np.cumsum(room[order]) - room[order]
            workers[order] = np.clip(demand.workers - before, 0, room[order])
    used = np.flatnonzero(workers)
    return candidates[used], workers[used]


def _with_shards(demand: Demand, free: Amounts) -> tuple[Amounts, Counts | None]:
    """What is left when each shard is on the node with most free CPUs, and how many each has; None: no room."""
    left, shards = free.copy(), np.zeros(free.shape[1], dtype=np.int64)
    for _ in range(demand.shards):
        node = int(left[CPU].argmax()) if left.shape[1] else -1
        if node < 0 or left[CPU, node] < demand.shard_cpu:
            return left, None
        left[CPU, node] -= demand.shard_cpu
        shards[node] += 1
    return left, shards
