"""The queue as a Ray actor: one for a cluster, detached from the job that started it, on the head if that is known."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.schedule.queue.grow import GROWTH_PAUSE_S
from orchestrator.schedule.queue.keeper import GRACE_S, LEASE_S, Answer, Keeper, Report
from orchestrator.schedule.queue.values import NodeState, units

NAME, NAMESPACE = "queue", "orchestrator"
HEAD_RESOURCE = "node:__internal_head__"
_LOOK_EVERY_S = 1.0
_ASK_LIMITS_EVERY_S = 60.0


class QueueActor:
    """Runs a ``Keeper`` with Ray's clock and nodes.

    Args:
        lease_s: see ``keeper.LEASE_S``.
        grace_s: see ``keeper.GRACE_S``.
        growth_pause_s: see ``grow.GROWTH_PAUSE_S``.
    """

    def __init__(
        self, lease_s: float = LEASE_S, grace_s: float = GRACE_S, growth_pause_s: float = GROWTH_PAUSE_S
    ) -> None:
        self._keeper = Keeper(time.time(), lease_s=lease_s, grace_s=grace_s, growth_pause_s=growth_pause_s)
        self._looked = self._asked = float("-inf")
        self._limits: tuple[int | None, int | None] = (None, None)

    def report(self, report: Report) -> Answer:
        """See ``Keeper.report``."""
        self._look()
        return self._keeper.report(report, time.time())

    def leave(self, key: str, turn: str) -> None:
        """See ``Keeper.leave``."""
        self._keeper.leave(key, turn)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        if now - self._asked > _ASK_LIMITS_EVERY_S:
            self._asked, self._limits = now, limits()
        self._looked = now
        self._keeper.look(node_states(), self._limits, time.time())


def open_queue() -> Any:
    """The handle of the cluster's queue, which is started where there is none."""
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and HEAD_RESOURCE in node["Resources"]]
    where = {"scheduling_strategy": NodeAffinitySchedulingStrategy(heads[0], soft=False)} if heads else {}
    return (
        ray.remote(QueueActor)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            **where,
        )
        .remote()
    )


def node_states() -> list[NodeState]:
    """All live nodes, in an order that stays."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    alive = sorted((node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"])
    return [
        NodeState(
            node,
            units(total.get("CPU", 0.0)),
            units(total.get("GPU", 0.0)),
            units(free[node].get("CPU", 0.0)),
            units(free[node].get("GPU", 0.0)),
        )
        for node, total in alive
        if node in free
    ]


def limits() -> tuple[int | None, int | None]:
    """CPUs and GPUs that the cluster's autoscaler may grow it to; None where there is no autoscaler."""
    from ray._private.state import state

    most = state.get_max_resources_from_cluster_config()
    return (None, None) if most is None else (units(most.get("CPU", 0)), units(most.get("GPU", 0)))
