"""What jobs behind the head of the queue may take without ever delaying it. Pure.

Nobody knows how long jobs run. So a job may pass the head only if the head could not start any sooner without it,
whichever of the running jobs end and whenever: **on no node may it lower what that node can contribute to the head,
for any set of running jobs that may have ended.** A node contributes the number of the head's workers that it has room
for; at most one with ``strict_spread``, all or nothing with ``strict_pack``. That holds

- on nodes that cannot contribute even when they are empty: everything free may be taken;
- with ``strict_spread``, on nodes that have room for the head's worker now: what is free beside it, for the room stays;
- if the head's workers need GPUs and CPUs remain beyond those that go with the GPUs, free or to come: that many CPUs.

All else is left alone. Contributions do not change, so neither does the moment at which the head fits; and jobs that
pass later are held to the same rule with those that passed before counted as running, so it holds for all of them
together. A head with shards, which share nodes with its workers, protects every node that has room for one of either.
"""

from __future__ import annotations

import numpy as np

from orchestrator.schedule.queue.fit import CPU, GPU, Amounts, places
from orchestrator.schedule.queue.nodes import Nodes
from orchestrator.schedule.queue.values import Demand


def left_by(head: Demand, nodes: Nodes) -> Amounts:
    """What of the free resources jobs behind the head may take; see the module's text for the rule."""
    room = places(head, nodes.total)
    useful = room >= (head.workers if head.placement == "strict_pack" else 1)
    if head.shards:
        useful = (room > 0) | (nodes.total[CPU] >= head.shard_cpu)
        return np.where(useful, 0, np.maximum(nodes.free, 0))
    left: Amounts = np.where(useful, 0, np.maximum(nodes.free, 0))
    may_have_spare = useful
    if head.placement == "strict_spread":
        has_room = useful & (places(head, nodes.free) > 0)
        need = np.array([[head.cpu], [head.gpu]], dtype=np.int64)
        left = np.where(has_room, nodes.free - need, left)
        may_have_spare = useful & ~has_room
    if head.gpu:
        margin = nodes.free[CPU] * head.gpu - nodes.free[GPU] * head.cpu - nodes.deficit((head.cpu, head.gpu))
        spare = np.clip(margin // head.gpu, 0, np.maximum(nodes.free[CPU], 0))
        left[CPU] = np.where(may_have_spare, spare, left[CPU])
    return left
