"""Connecting to Ray and asking whether the workers fit."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.core.errors import OutOfReachError
from orchestrator.spec.job import AnyJobSpec, JobSpec, Resources
from orchestrator.spec.methods.served import Served

_OBJECT_STORE_BYTES = 256 * 2**20
"""An embedded cluster moves weights through torch.distributed; its object store carries small messages only."""
_CONNECT_TIMEOUT_S = 2.0
LEAST_SHARD_CPUS = 0.001
"""What a shard reserves that asks for nothing, so that it has a bundle of its own."""


@dataclass(frozen=True, slots=True)
class Shards:
    """Processes that a served job needs beside its workers."""

    count: int
    cpus_each: float


NO_SHARDS = Shards(0, 0.0)


def shards_of(spec: AnyJobSpec) -> Shards:
    """The job's shards; none where its workers exchange gradients themselves."""
    if isinstance(spec, JobSpec) and isinstance(spec.exchange, Served):
        return Shards(spec.exchange.shards, spec.exchange.cpus_per_shard)
    return NO_SHARDS


def cpus_of(spec: AnyJobSpec) -> int:
    """CPU cores that a private cluster must have for a job."""
    resources, shards = spec.resources, shards_of(spec)
    # Ray refuses fractions above one, and shards reserve at least a thousandth each.
    return math.ceil(resources.num_workers * resources.cpus_per_worker + shards.count * max(shards.cpus_each, 1))


def connect(*specs: AnyJobSpec, embedded: bool) -> dict[str, Any]:
    """Attach to the cluster that this process runs in, or start a private one.

    A private cluster is told that it has at least as many CPUs as the jobs ask for: four workers on a two-core
    laptop are slow, but they are what the spec says. Of a range that is the least number of
    workers.

    Args:
        specs: the jobs that run on it at the same time; one, or some trials of a sweep.
        embedded: start a private one.

    Returns:
        What was found, for the event log.

    Raises:
        OutOfReachError: where there is no cluster to attach to.
    """
    # ``ray`` reads these when a cluster starts; a person's own settings win.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": True}
    if not embedded:
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError as error:
            raise OutOfReachError(f"No Ray cluster answers here ({error}).") from error
        return {"address": ray.get_runtime_context().gcs_address, "cpus": ray.cluster_resources().get("CPU", 0)}
    # Ray runs workers at niceness 15, behind everything else on the machine; here they are what the machine is for.
    os.environ.setdefault("RAY_worker_niceness", "0")
    cores = os.cpu_count() or 1
    needed = sum(map(cpus_of, specs))
    ray.init(
        address="local",
        num_cpus=max(cores, needed),
        include_dashboard=False,
        # Served jobs move weights and gradients through it: Ray's own choice, a third of the memory.
        object_store_memory=None if any(shards_of(spec).count for spec in specs) else _OBJECT_STORE_BYTES,
        **quiet,
    )
    return {"address": "embedded", "cpus": cores, "oversubscribed": needed > cores}


@dataclass(frozen=True, slots=True)
class Fits:
    """The workers can be placed now."""

    workers: int
    """How many of a range; else all of them."""


@dataclass(frozen=True, slots=True)
class Waits:
    """The workers cannot be placed yet."""

    reason: str


def admit(resources: Resources, nodes: list[Mapping[str, float]], shards: Shards = NO_SHARDS) -> Fits | Waits:
    """Whether the workers, of a range as many as there can be, and all shards fit into what nodes have free. Pure.

    Args:
        resources: what the job asks for.
        nodes: free resources of each node, by Ray's names (CPU, GPU).
        shards: what it needs beside its workers.
    """
    left = _without(shards, nodes)
    places = [_places(resources, node) for node in left]
    if resources.placement == "strict_spread":
        fitting = sum(place > 0 for place in places)
    elif resources.placement == "strict_pack":
        fitting = max(places, default=0)
    else:
        fitting = sum(places)
    if fitting >= resources.num_workers:
        return Fits(min(fitting, resources.max_workers))
    free = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    beside = f" beside {shards.count} shards of {shards.cpus_each:g} CPUs" if shards.count else ""
    return Waits(
        f"needs {resources.workers} workers of {resources.cpus_per_worker:g} CPUs and {resources.gpus_per_worker} GPUs"
        f" ({resources.placement}){beside}; {fitting} fit now, {free['CPU']:g} CPUs and {free['GPU']:g} GPUs are free"
    )


def fits_beside(spec: AnyJobSpec, others: Iterable[AnyJobSpec], node: Mapping[str, float]) -> bool:
    """Whether a job fits a node beside others. Pure.

    Args:
        spec: the job.
        others: what runs there.
        node: all resources of the node, by Ray's names.
    """
    free = dict(node)
    for other in others:
        resources, shards = other.resources, shards_of(other)
        free["CPU"] -= resources.num_workers * resources.cpus_per_worker + shards.count * shards.cpus_each
        free["GPU"] = free.get("GPU", 0.0) - resources.num_workers * resources.gpus_per_worker
    return isinstance(admit(spec.resources, [free], shards_of(spec)), Fits)


def _without(shards: Shards, nodes: list[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """What is free once the shards are placed, each on the node with most free CPUs; empty where they do not fit."""
    left = [dict(node) for node in nodes]
    for _ in range(shards.count):
        node = max(left, key=lambda node: node.get("CPU", 0.0), default={})
        if node.get("CPU", 0.0) + 1e-6 < shards.cpus_each:
            return []
        node["CPU"] = node.get("CPU", 0.0) - shards.cpus_each
    return list(left)


def _places(resources: Resources, node: Mapping[str, float]) -> int:
    # Ray counts resources in ten-thousandths; a little slack keeps 0.1 + 0.2 from losing a place.
    places = math.floor(node.get("CPU", 0.0) / resources.cpus_per_worker + 1e-6)
    if resources.gpus_per_worker:
        places = min(places, math.floor(node.get("GPU", 0.0) / resources.gpus_per_worker + 1e-6))
    return places


def free_resources() -> list[Mapping[str, float]]:
    """Free resources of each live node."""
    from ray._private.state import available_resources_per_node

    return list(available_resources_per_node().values())


def total_resources() -> list[Mapping[str, float]]:
    """What each live node has in all."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def silent_nodes(names: Collection[str]) -> set[str]:
    """Those of some nodes whose raylet takes no connection: they are gone, though Ray may need 20 s more to say so."""
    addresses = {node["NodeID"]: (node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes()}
    return {name for name in names if name not in addresses or not _takes_connections(addresses[name])}


def _takes_connections(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def all_resources() -> Mapping[str, float]:
    """What a cluster of one node has, free or not."""
    return dict(ray.cluster_resources())


def gcs_address() -> str:
    """Where other processes of this machine attach to the cluster that this process has started."""
    return str(ray.get_runtime_context().gcs_address)
