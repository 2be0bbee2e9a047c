"""The queue's decisions against exhaustive search on small clusters, and what it says to those that wait."""

from __future__ import annotations

import random

import pytest
from schedule.queue_cases import after, demand, fits, granted, queue_of, random_demand, random_nodes, request, states

from orchestrator.schedule.cluster import Fits, Shards, admit
from orchestrator.schedule.queue.fit import layout_of, num_fitting
from orchestrator.schedule.queue.nodes import Nodes
from orchestrator.schedule.queue.values import UNIT, Granted
from orchestrator.spec.job import Resources

# ---- whole gangs


@pytest.mark.parametrize("seed", range(200))
def test_a_gang_fits_as_exhaustive_counting_and_admission_say(seed: int) -> None:
    rng = random.Random(seed)
    cluster, what = random_nodes(rng), random_demand(rng)
    nodes = Nodes()
    nodes.refresh(states(cluster))
    layout = layout_of(what, nodes.free)
    assert (layout is not None) == fits(what, cluster) == (num_fitting(what, nodes.free) >= what.workers)
    if layout is not None:
        assert layout.workers.sum() == what.workers
        uses = nodes.uses_of(layout)
        assert min(min(node) for node in after(cluster, [(what, uses)])) >= 0
        if what.placement == "strict_spread":
            assert max(use.workers for use in uses) == 1
        if what.placement == "strict_pack":
            assert len(uses) == 1


@pytest.mark.parametrize("seed", range(100))
def test_shards_are_placed_as_admission_counts_them(seed: int) -> None:
    rng = random.Random(seed)
    cluster, workers, cpus, shards = random_nodes(rng), rng.randint(1, 4), rng.randint(1, 3), rng.randint(1, 3)
    what = demand(workers, cpus, shards=shards)
    nodes = Nodes()
    nodes.refresh(states(cluster))
    ray_nodes = [{"CPU": float(cpu), "GPU": float(gpu)} for cpu, gpu in cluster]
    expected = admit(Resources(workers=workers, cpus_per_worker=cpus), ray_nodes, Shards(shards, 1.0))
    layout = layout_of(what, nodes.free)
    assert (layout is not None) == isinstance(expected, Fits)
    if layout is not None:
        assert (layout.workers.sum(), layout.shards.sum()) == (workers, shards)
        assert min(cpu for cpu, _ in after(cluster, [(what, nodes.uses_of(layout))])) >= 0


def test_tenths_add_up_exactly() -> None:
    queue = queue_of((1, 0))
    tenths = demand(10)
    tenths = type(tenths)(10, UNIT // 10)
    queue.submit(request("ten", tenths), 0)
    assert granted(queue) == ["ten"]
    assert queue.nodes.free.tolist() == [[0], [0]]


def test_spread_uses_as_many_nodes_as_it_can_and_pack_as_few() -> None:
    for placement, expected in (("spread", [1, 1, 2]), ("pack", [4])):
        queue = queue_of((4, 0), (2, 0), (1, 0))
        queue.submit(request("a", demand(4, placement=placement)), 0)
        (decision,) = queue.decide(0)
        assert isinstance(decision, Granted)
        assert sorted(use.workers for use in decision.uses) == expected


def test_cpu_jobs_keep_off_nodes_with_gpus() -> None:
    queue = queue_of((4, 4), (8, 0))  # though the other node has less to spare
    queue.submit(request("a", demand(2)), 0)
    (decision,) = queue.decide(0)
    assert isinstance(decision, Granted)
    assert [use.node for use in decision.uses] == ["n1"]


# ---- order


def test_priority_first_then_first_come() -> None:
    queue = queue_of((1, 0))
    for key, priority, submitted in (("b", 0, 2.0), ("a", 0, 1.0), ("urgent", 5, 9.0), ("low", -1, 0.0)):
        queue.submit(request(key, demand(1), priority=priority, submitted=submitted), 0)
    order = []
    while queue.waiting:
        (key,) = granted(queue)
        order.append(key)
        queue.release(key)
    assert order == ["urgent", "a", "b", "low"]


@pytest.mark.parametrize("seed", range(60))
def test_without_quotas_nobody_is_passed_by_one_that_needs_the_same(seed: int) -> None:
    """A random life of a queue: jobs come, end and give up; checked against a list that is searched from its front."""
    rng = random.Random(seed)
    cluster = random_nodes(rng)
    queue = queue_of(*cluster)
    kinds = [random_demand(rng) for _ in range(3)]
    requests = {}
    for number in range(60):
        key = f"j{number}"
        requests[key] = request(key, rng.choice(kinds), priority=rng.randint(0, 2), submitted=float(number))
        queue.submit(requests[key], number)
        if queue.running and rng.random() < 0.6:
            queue.release(rng.choice(sorted(queue.running)))
        if len(queue.waiting) and rng.random() < 0.1:
            queue.release(rng.choice([key for key in requests if key in queue.waiting]))
        before = {key for key in requests if key in queue.waiting}
        started = granted(queue, number)
        holders = [(job.request.demand, job.uses) for job in queue.running.values()]
        left = after(cluster, holders)
        assert min(min(node) for node in left) >= 0
        ranks = {key: (-requests[key].priority, requests[key].submitted) for key in before}
        for key in started:
            same = [k for k in before - set(started) if requests[k].demand == requests[key].demand]
            assert all(ranks[k] > ranks[key] for k in same)
        # Nobody who is first of those that could ever run is left although there is room.
        able = sorted((k for k in before - set(started) if fits(requests[k].demand, cluster)), key=ranks.__getitem__)
        assert not able or not fits(requests[able[0]].demand, left)
