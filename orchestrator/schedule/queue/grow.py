"""How a place gets room for more workers, and who leaves room for others of its own priority. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from orchestrator.schedule.queue.fit import CPU, GPU, Amounts, layout_of, num_fitting
from orchestrator.schedule.queue.nodes import Nodes
from orchestrator.schedule.queue.values import Demand, Use

GROWTH_PAUSE_S = 60.0
"""Between two changes of a running job's place: each costs a restart, some ten seconds of all its workers, and nodes
that join one after another should cost one."""
_OWN, _OTHERS = True, False
_REACH = {"pack": (_OWN, _OTHERS), "strict_pack": (_OWN,), "spread": (_OTHERS, _OWN), "strict_spread": (_OTHERS,)}
"""By placement strategy: where more workers of a job may go, its own nodes or others, the better ones first."""


def larger_place(demand: Demand, uses: Sequence[Use], most: int, nodes: Nodes) -> tuple[Use, ...] | None:
    """A place with what is held and as many more workers as there is room for; None where there is none.

    Args:
        demand: of the job, which has no shards.
        uses: what it holds.
        most: workers that it may have.
        nodes: the ledger.
    """
    if any(use.node not in nodes for use in uses):
        return None
    workers = {use.node: use.workers for use in uses}
    is_own = np.isin(nodes.names, list(workers))
    missing = most - sum(workers.values())
    for where in _REACH[demand.placement]:
        free = np.where(is_own == where, nodes.free, 0)
        more = replace(demand, workers=min(missing, num_fitting(demand, free)))
        layout = layout_of(more, free) if more.workers > 0 else None
        for use in nodes.uses_of(layout) if layout is not None else ():
            workers[use.node] = workers.get(use.node, 0) + use.workers
            missing -= use.workers
    larger = tuple(Use(node, number) for node, number in workers.items())
    return None if larger == tuple(uses) else larger


def smaller_place(uses: Sequence[Use], num_workers: int, placement: str) -> tuple[Use, ...]:
    """So many of a place's workers: on few nodes, so that others are free, or on many where they are to be spread.

    Args:
        uses: what is held, by more workers.
        num_workers: to keep, at least 1.
        placement: Ray's strategy of the job.
    """
    kept = Counter({use.node: use.workers for use in uses})
    is_spread = placement in ("spread", "strict_spread")
    for _ in range(sum(kept.values()) - num_workers):
        fullest, emptiest = max(kept, key=lambda node: kept[node]), min(kept, key=lambda node: kept[node])
        from_node = fullest if is_spread else emptiest
        kept[from_node] -= 1
        if not kept[from_node]:
            del kept[from_node]
    return tuple(Use(node, workers) for node, workers in kept.items())


def fit_together(demands: Sequence[Demand], free: Amounts) -> bool:
    """Whether all of these would start, one after another in this order."""
    left = free.copy()
    for demand in demands:
        layout = layout_of(demand, left)
        if layout is None:
            return False
        left[CPU, layout.nodes] -= layout.workers * demand.cpu + layout.shards * demand.shard_cpu
        left[GPU, layout.nodes] -= layout.workers * demand.gpu
    return True
