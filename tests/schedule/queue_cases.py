"""Small random clusters and jobs, and an independent judge of what fits: exhaustive, in plain Python."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import chain, combinations

from orchestrator.schedule.queue.core import SharedQueue
from orchestrator.schedule.queue.values import UNIT, Demand, Granted, NodeState, Preempt, Request, Use

Node = tuple[int, int]
"""Free CPUs and GPUs, whole ones."""


def demand(workers: int, cpus: int = 1, gpus: int = 0, placement: str = "pack", shards: int = 0) -> Demand:
    return Demand(workers, cpus * UNIT, gpus * UNIT, placement, shards, UNIT if shards else 0)


def request(key: str, what: Demand, **fields: object) -> Request:
    return Request(**{"key": key, "name": key, "demand": what, "submitted": 0.0, **fields})  # type: ignore[arg-type]


def states(nodes: Sequence[Node], free: Sequence[Node] | None = None) -> list[NodeState]:
    rows = zip(nodes, nodes if free is None else free, strict=True)
    return [
        NodeState(f"n{k}", cpu * UNIT, gpu * UNIT, free_cpu * UNIT, free_gpu * UNIT)
        for k, ((cpu, gpu), (free_cpu, free_gpu)) in enumerate(rows)
    ]


def workers_on(what: Demand, node: Node) -> int:
    """Put workers on a node one after another until one does not fit."""
    cpu, gpu, num = node[0] * UNIT, node[1] * UNIT, 0
    while cpu >= what.cpu and gpu >= what.gpu:
        cpu, gpu, num = cpu - what.cpu, gpu - what.gpu, num + 1
    return num


def fits(what: Demand, nodes: Sequence[Node]) -> bool:
    """Whether all workers can be placed; for demands without shards."""
    room = [workers_on(what, node) for node in nodes]
    if what.placement == "strict_pack":
        return any(one >= what.workers for one in room)
    if what.placement == "strict_spread":
        return sum(one > 0 for one in room) >= what.workers
    return sum(room) >= what.workers


def after(nodes: Sequence[Node], holders: Iterable[tuple[Demand, tuple[Use, ...]]]) -> list[Node]:
    """What the nodes have left when these hold their places."""
    left = [list(node) for node in nodes]
    for what, uses in holders:
        for use in uses:
            left[int(use.node[1:])][0] -= (use.workers * what.cpu + use.shards * what.shard_cpu) // UNIT
            left[int(use.node[1:])][1] -= use.workers * what.gpu // UNIT
    return [(cpu, gpu) for cpu, gpu in left]


def subsets(items: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))


def random_nodes(rng: random.Random) -> list[Node]:
    return [(rng.randint(1, 8), rng.choice((0, 0, 2, 4))) for _ in range(rng.randint(1, 4))]


def random_demand(rng: random.Random) -> Demand:
    placement = rng.choice(("pack", "pack", "spread", "strict_pack", "strict_spread"))
    return demand(rng.randint(1, 4), rng.randint(1, 3), rng.choice((0, 0, 1)), placement)


def queue_of(*nodes: tuple[int, int]) -> SharedQueue:
    queue = SharedQueue()
    queue.refresh(states(nodes))
    return queue


def granted(queue: SharedQueue, now: float = 0.0) -> list[str]:
    return [decision.key for decision in queue.decide(now) if isinstance(decision, Granted)]


def preempted(queue: SharedQueue, now: float = 0.0) -> list[str]:
    return [decision.key for decision in queue.decide(now) if isinstance(decision, Preempt)]
