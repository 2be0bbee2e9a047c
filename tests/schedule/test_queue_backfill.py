"""Jobs that pass the head of the queue never delay it: every set of jobs that may end is tried."""

from __future__ import annotations

import random

from schedule.queue_cases import (
    after,
    demand,
    fits,
    granted,
    queue_of,
    random_demand,
    random_nodes,
    request,
    states,
    subsets,
)

from orchestrator.schedule.queue.core import SharedQueue
from orchestrator.schedule.queue.reasons import reason_of
from orchestrator.schedule.queue.values import Demand

Places = dict[str, tuple[Demand, tuple[object, ...]]]


def places_of(queue: SharedQueue) -> Places:
    return {key: (job.request.demand, job.uses) for key, job in queue.running.items()}


def busy_queue(rng: random.Random, cluster: list[tuple[int, int]]) -> SharedQueue:
    """Some jobs run and nobody waits."""
    queue = queue_of(*cluster)
    for number in range(rng.randint(1, 5)):
        queue.submit(request(f"r{number}", random_demand(rng)), 0)
        queue.decide(0)
        queue.release(f"r{number}") if f"r{number}" in queue.waiting else None
    if len(queue.running) > 1 and rng.random() < 0.5:
        queue.release(rng.choice(sorted(queue.running)))
    return queue


def assert_head_is_not_delayed(head: Demand, cluster: list[tuple[int, int]], running: Places, passed: Places) -> None:
    for ended in subsets(sorted(running)):
        stay = [place for key, place in running.items() if key not in ended]
        if fits(head, after(cluster, stay)):
            assert fits(head, after(cluster, [*stay, *passed.values()])), (cluster, head, running, passed, ended)


def test_whatever_ends_the_head_starts_as_soon_as_without_those_that_passed() -> None:
    """Passing happens in two waves, with an end in between; those that passed never end, which is the worst case."""
    num_heads = num_passed = 0
    for seed in range(700):
        rng = random.Random(seed)
        cluster = random_nodes(rng)
        queue = busy_queue(rng, cluster)
        running = places_of(queue)
        tries = (random_demand(rng) for _ in range(50))
        left = after(cluster, running.values())
        head = next((what for what in tries if fits(what, cluster) and not fits(what, left)), None)
        if head is None:
            continue
        num_heads += 1
        queue.submit(request("head", head, priority=1), 1)
        for wave in range(2):
            for number in range(8):
                queue.submit(request(f"b{wave}{number}", random_demand(rng)), 1)
            queue.decide(1)
            if queue.head is None or queue.head.request.key != "head":
                break  # it has started
            passed = {key: place for key, place in places_of(queue).items() if key not in running}
            num_passed += len(passed)
            assert_head_is_not_delayed(head, cluster, running, passed)
            if not running:
                break
            ended = rng.choice(sorted(running))
            queue.release(ended)
            del running[ended]
    assert num_heads > 300
    assert num_passed > 200


def test_the_brute_force_judge_sees_jobs_pass() -> None:
    """The test above is worth something: in a good part of its cases jobs do pass the head."""
    queue = queue_of((8, 4), (4, 0))
    queue.submit(request("r", demand(2, 1, 1)), 0)
    queue.decide(0)
    queue.submit(request("head", demand(4, 1, 1), priority=1), 1)
    for number in range(9):
        queue.submit(request(f"b{number}", demand(1)), 1)
    # Four CPUs without GPUs, and four of the eight beside the four GPUs that the head waits for.
    assert len(granted(queue, 1)) == 8
    assert reason_of(queue, "b8") == "would delay head, which needs 4 GPUs, 2 free"


def test_a_head_of_one_worker_per_node_keeps_one_place_on_each() -> None:
    queue = queue_of((4, 0), (2, 0), (2, 0))
    queue.submit(request("r", demand(1, 2, placement="strict_pack")), 0)
    queue.decide(0)
    queue.submit(request("head", demand(3, 1, placement="strict_spread"), priority=1), 1)
    for number in range(5):
        queue.submit(request(f"b{number}", demand(1)), 1)
    assert len(granted(queue, 1)) == 4  # of four CPUs on one node three, of two on another one
    assert (
        after([(4, 0), (2, 0), (2, 0)], [(j.request.demand, j.uses) for j in queue.running.values()]).count((1, 0)) == 2
    )


def test_a_head_for_one_large_node_leaves_the_small_ones() -> None:
    queue = queue_of((8, 8), (8, 4))
    queue.submit(request("r", demand(1, 1, 1)), 0)
    queue.nodes.refresh(states([(8, 8), (8, 4)], [(7, 7), (8, 4)]))
    queue.adopt(request("r", demand(1, 1, 1)), (), 0)
    queue.submit(request("head", demand(8, 1, 1, "strict_pack"), priority=1), 1)
    queue.submit(request("b", demand(4, 1, 1)), 1)
    assert granted(queue, 1) == ["b"]
    assert [use.node for use in queue.running["b"].uses] == ["n1"]


def test_beside_the_heads_worker_all_cpus_of_its_node_may_be_taken() -> None:
    queue = queue_of((8, 4), (8, 4))
    queue.submit(request("r", demand(1, 8, 1)), 0)
    queue.decide(0)
    queue.submit(request("head", demand(2, 1, 1, "strict_spread"), priority=1), 1)
    queue.submit(request("b", demand(7)), 1)
    assert granted(queue, 1) == ["b"]


def test_what_comes_free_while_the_head_waits_is_looked_at_again() -> None:
    queue = queue_of((10, 4), (4, 0))
    for key, what in (("gpus", demand(2, 1, 1)), ("cpus", demand(4)), ("more", demand(4))):
        queue.submit(request(key, what), 0)
    queue.decide(0)
    queue.release("cpus")
    queue.submit(request("head", demand(4, 1, 1), priority=1), 1)
    queue.submit(request("wide", demand(5, placement="strict_pack")), 1)
    assert granted(queue, 1) == []  # four on one node, two on the other
    queue.release("more")
    assert granted(queue, 2) == ["wide"]
