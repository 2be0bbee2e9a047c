"""Why a job waits, in words."""

from __future__ import annotations

from collections import Counter

from orchestrator.schedule.queue.core import SharedQueue
from orchestrator.schedule.queue.fit import CPU, GPU, num_fitting, sums_of
from orchestrator.schedule.queue.values import Demand, Request, amount_text


def demand_text(demand: Demand) -> str:
    """What a job needs in all: ``8 GPUs``, or ``4 CPUs`` where it needs no GPU."""
    if demand.gpu:
        return _counted(demand.total_gpu, "GPU")
    return _counted(demand.total_cpu, "CPU")


def reason_of(queue: SharedQueue, key: str, limits: tuple[int | None, int | None] = (None, None)) -> str:
    """One clause that says what a waiting job waits for, as of the last decision.

    Args:
        queue: the queue.
        key: a job that waits.
        limits: CPUs and GPUs that the cluster may grow to, where its autoscaler says so.
    """
    request = queue.waiting[key].request
    if (text := _quota_text(queue, request)) is not None:
        return text
    if not queue.is_feasible(request.demand):
        return _infeasible_text(queue, request.demand, limits)
    text = _shortage_text(queue, request.demand)
    ahead = queue.waiting.ahead_of(key)
    if queue.head is not None and queue.head.request.key == key:
        leaving = [queue.running[other].request.name for other in queue.asked_for(key)]
        if leaving:
            return f"{text}; {', '.join(leaving)} {'is' if len(leaving) == 1 else 'are'} making room"
        return f"{text}; first in the queue" if ahead == 0 else f"{text}; first of those that could run"
    if queue.head is not None and num_fitting(request.demand, queue.nodes.free) >= request.demand.workers:
        return f"would delay {queue.head.request.name}, which {_shortage_text(queue, queue.head.request.demand)}"
    return f"{text}; {ahead} {'job' if ahead == 1 else 'jobs'} ahead"


def _shortage_text(queue: SharedQueue, demand: Demand) -> str:
    kind, needed, noun = (GPU, demand.total_gpu, "GPU") if demand.gpu else (CPU, demand.total_cpu, "CPU")
    free = sums_of(queue.nodes.free)
    if free[kind] < needed:
        return f"needs {_counted(needed, noun)}, {amount_text(free[kind])} free"
    # Enough in all, but not where whole workers need it.
    return f"needs {_worker_text(demand)}; {num_fitting(demand, queue.nodes.free)} fit now"


def _quota_text(queue: SharedQueue, request: Request) -> str | None:
    if not queue.over_quota(request):
        return None
    quota, held, demand = queue.quotas[request.account], queue.held.get(request.account, Counter()), request.demand
    of_gpus = quota.gpu is not None and held["gpu"] + demand.total_gpu > quota.gpu and demand.total_gpu > 0
    limit, needed, kind = (quota.gpu, demand.total_gpu, "GPU") if of_gpus else (quota.cpu, demand.total_cpu, "CPU")
    assert limit is not None  # over_quota has looked
    if needed > limit:
        return f"needs {_counted(needed, kind)}, more than the quota of owner {request.owner}: {amount_text(limit)}"
    has = f"owner {request.owner} has {amount_text(held[kind.lower()])} of the {_counted(limit, kind)} of their quota"
    return f"needs {_counted(needed, kind)}; {has}"


def _infeasible_text(queue: SharedQueue, demand: Demand, limits: tuple[int | None, int | None]) -> str:
    most = num_fitting(demand, queue.nodes.total)
    num_nodes = len(queue.nodes.names)
    nodes = "one node that is there has" if num_nodes == 1 else f"{num_nodes} nodes that are there have"
    text = f"needs {_worker_text(demand)}; the {nodes} room for {most}"
    beyond = [
        f"{amount_text(limit)} {noun}s"
        for limit, needed, noun in ((limits[CPU], demand.total_cpu, "CPU"), (limits[GPU], demand.total_gpu, "GPU"))
        if limit is not None and needed > limit
    ]
    if beyond:
        return f"{text} when empty, and the cluster grows to {' and '.join(beyond)} at most: it will never fit"
    return f"{text} when empty: it waits for other nodes"


def _worker_text(demand: Demand) -> str:
    gpus = f" and {_counted(demand.gpu, 'GPU')}" if demand.gpu else ""
    shards = f" beside {demand.shards} shards of {_counted(demand.shard_cpu, 'CPU')}" if demand.shards else ""
    return f"{demand.workers} workers of {_counted(demand.cpu, 'CPU')}{gpus} ({demand.placement}){shards}"


def _counted(amount: int, noun: str) -> str:
    text = amount_text(amount)
    return f"{text} {noun}" if text == "1" else f"{text} {noun}s"
