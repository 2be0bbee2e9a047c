"""Quotas, room that is made for others, and the reasons that those who wait are given."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from schedule.queue_cases import (
    after,
    demand,
    fits,
    granted,
    preempted,
    queue_of,
    random_demand,
    random_nodes,
    request,
    states,
)

from orchestrator.schedule.queue import preempt
from orchestrator.schedule.queue.nodes import Nodes
from orchestrator.schedule.queue.preempt import Candidate, choose_victims
from orchestrator.schedule.queue.reasons import reason_of
from orchestrator.schedule.queue.values import UNIT, Quota

FOUR_GPUS = Quota(gpu=4 * UNIT)
GPU = demand(1, 1, 1)

# ---- quotas


def test_an_owner_at_the_quota_waits_and_holds_nobody_up() -> None:
    queue = queue_of((8, 8))
    for number in range(6):
        queue.submit(request(f"ann{number}", GPU, owner="ann", account="ann", quota=FOUR_GPUS, priority=9), 0)
    queue.submit(request("bob", demand(2, 1, 1), owner="bob", account="bob"), 0)
    assert granted(queue) == ["ann0", "ann1", "ann2", "ann3", "bob"]
    assert queue.head is None
    assert reason_of(queue, "ann4") == "needs 1 GPU; owner ann has 4 of the 4 GPUs of their quota"
    queue.release("ann2")
    assert granted(queue) == ["ann4"]
    assert granted(queue) == []


def test_a_quota_that_changes_counts_at_once_for_those_that_wait() -> None:
    queue = queue_of((8, 8))
    for number in range(2):
        queue.submit(request(f"a{number}", GPU, account="ann", quota=Quota(gpu=UNIT)), 0)
    assert granted(queue) == ["a0"]
    queue.submit(request("a0", GPU, account="ann", quota=FOUR_GPUS), 1)  # the driver of a running job tells it
    assert granted(queue) == ["a1"]


def test_cpus_and_gpus_have_quotas_of_their_own() -> None:
    quota = Quota(gpu=0, cpu=3 * UNIT)
    queue = queue_of((8, 8))
    for key, what in (("gpu", GPU), ("cpu", demand(2)), ("many", demand(4)), ("more", demand(2))):
        queue.submit(request(key, what, owner="ann", account="ann", quota=quota), 0)
    assert granted(queue) == ["cpu"]
    assert reason_of(queue, "gpu") == "needs 1 GPU, more than the quota of owner ann: 0"
    assert reason_of(queue, "many") == "needs 4 CPUs, more than the quota of owner ann: 3"
    assert reason_of(queue, "more") == "needs 2 CPUs; owner ann has 2 of the 3 CPUs of their quota"


def test_accounts_are_apart_even_where_owners_have_one_name() -> None:
    queue = queue_of((8, 8))
    for account in ("/one:ann", "/other:ann"):
        queue.submit(request(account, demand(4, 1, 1), owner="ann", account=account, quota=FOUR_GPUS), 0)
    assert len(granted(queue)) == 2


# ---- room


def test_the_latest_of_the_lowest_makes_room_and_the_head_takes_it() -> None:
    queue = queue_of((4, 0))
    for number, (priority, cpus) in enumerate(((1, 1), (0, 1), (0, 1), (1, 1))):
        queue.submit(request(f"r{number}", demand(1, cpus), priority=priority, preemptible=True), number)
        queue.decide(number)
    queue.submit(request("urgent", demand(1), priority=5), 9)
    assert preempted(queue, 9) == ["r2"]
    assert reason_of(queue, "urgent") == "needs 1 CPU, 0 free; r2 is making room"
    assert preempted(queue, 10) == []  # asked once
    request_again = queue.running["r2"].request
    queue.release("r2")
    queue.submit(request_again, 11)
    assert granted(queue, 11) == ["urgent"]
    assert reason_of(queue, "r2") == "needs 1 CPU, 0 free; first in the queue"


def test_nobody_is_asked_in_vain_nor_by_an_equal_nor_without_a_checkpoint() -> None:
    queue = queue_of((2, 0), (2, 0))
    queue.submit(request("kept", demand(1, 2), preemptible=False), 0)
    queue.submit(request("equal", demand(1, 2), priority=5, preemptible=True), 0)
    queue.decide(0)
    queue.submit(request("urgent", demand(1, 2), priority=5), 1)
    assert preempted(queue, 1) == []
    queue.submit(request("large", demand(2, 2), priority=6), 1)  # equal's end alone would not make it fit
    assert preempted(queue, 1) == []


def test_two_below_are_asked_rather_than_an_equal() -> None:
    queue = queue_of((4, 0))
    for key, cpus, priority in (("one", 1, 0), ("equal", 2, 5), ("other", 1, 0)):
        queue.submit(request(key, demand(1, cpus), priority=priority, preemptible=True), 0)
    queue.decide(0)
    queue.submit(request("urgent", demand(1, 2), priority=5), 1)
    assert sorted(preempted(queue, 1)) == ["one", "other"]


def chosen_by_search(what, cluster, running, candidates):
    """All sets of the smallest size that help, the least harm first, tried one by one."""
    ranked = sorted(candidates, key=lambda c: (c.priority, -c.started, c.key))
    for size in range(len(ranked) + 1):
        helping = []
        for victims in combinations(ranked, size):
            gone = {victim.key for victim in victims}
            if fits(what, after(cluster, [place for key, place in running.items() if key not in gone])):
                helping.append(victims)
        if helping:
            best = min(
                helping,
                key=lambda vs: (sorted((v.priority for v in vs), reverse=True), sorted(-v.started for v in vs)[::-1]),
            )
            return tuple(victim.key for victim in best)
    return ()


@pytest.mark.parametrize("max_sets", [preempt.MAX_SETS_TRIED, 3])
def test_victims_are_those_that_a_search_finds(max_sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preempt, "MAX_SETS_TRIED", max_sets)
    num_found = 0
    for seed in range(300):
        rng = random.Random(seed)
        cluster = random_nodes(rng)
        queue = queue_of(*cluster)
        for number in range(6):
            fields = {"priority": rng.randint(0, 2), "preemptible": True}
            queue.submit(request(f"r{number}", random_demand(rng), **fields), 0)
            queue.decide(number)
        running = {key: (job.request.demand, job.uses) for key, job in queue.running.items()}
        candidates = [Candidate(key, job.request.priority, job.started) for key, job in queue.running.items()]
        what = random_demand(rng)
        if fits(what, after(cluster, running.values())):
            continue
        found = tuple(job.key for job in choose_victims(what, queue.nodes, queue.nodes.free, candidates))
        expected = chosen_by_search(what, cluster, running, candidates)
        if max_sets > 3:
            assert found == expected
        elif not found:
            assert not expected
        else:
            # In order, so not always the fewest, but never one that is not needed.
            stay = {key: place for key, place in running.items() if key not in found}
            assert fits(what, after(cluster, stay.values()))
            for spared in found:
                assert not fits(what, after(cluster, [*stay.values(), running[spared]]))
        num_found += bool(found)
    assert num_found > 50


# ---- nodes come and go


def test_what_others_use_is_not_given_away_and_a_lost_node_is_seen() -> None:
    queue = queue_of((4, 0), (4, 0))
    queue.refresh(states([(4, 0), (4, 0)], [(1, 0), (4, 0)]))  # a program beside the queue has three CPUs
    queue.submit(request("a", demand(6)), 0)
    assert granted(queue) == []
    assert reason_of(queue, "a") == "needs 6 CPUs, 5 free; first in the queue"
    queue.refresh(states([(4, 0), (4, 0)]))
    assert granted(queue) == ["a"]
    assert queue.lost_nodes("a") == ()
    queue.refresh(states([(4, 0)], [(0, 0)]))
    assert queue.lost_nodes("a")


def test_a_grant_that_ray_has_not_seen_yet_is_counted_once_it_is_there_too() -> None:
    nodes = Nodes()
    nodes.refresh(states([(4, 0)]))
    queue = queue_of((4, 0))
    queue.submit(request("a", demand(2)), 0)
    queue.decide(0)
    for free in ((4, 0), (2, 0)):  # before and after its workers start
        queue.refresh(states([(4, 0)], [free]))
        assert queue.nodes.free.tolist() == [[2 * UNIT], [0]]


# ---- reasons


def test_a_job_that_fits_no_empty_cluster_is_told_so_and_passed_over() -> None:
    queue = queue_of((4, 2), (4, 2))
    queue.submit(request("wide", demand(4, 1, 1, "strict_pack"), priority=9), 0)
    queue.submit(request("small", GPU), 0)
    assert granted(queue) == ["small"]
    words = "needs 4 workers of 1 CPU and 1 GPU (strict_pack); the 2 nodes that are there have room for 2 when empty"
    assert reason_of(queue, "wide") == f"{words}: it waits for other nodes"
    limits = (None, 2 * UNIT)
    assert reason_of(queue, "wide", limits) == f"{words}, and the cluster grows to 2 GPUs at most: it will never fit"


def test_shortages_are_told_in_numbers() -> None:
    queue = queue_of((4, 4), (4, 4))
    queue.submit(request("r", demand(2, 1, 1, "strict_spread")), 0)
    queue.decide(0)
    for key, what in (
        ("first", demand(8, 1, 1)),
        ("second", demand(7, 1, 1)),
        ("third", demand(4, 1, 1, "strict_pack")),
    ):
        queue.submit(request(key, what), 0)
    queue.decide(0)
    assert reason_of(queue, "first") == "needs 8 GPUs, 6 free; first in the queue"
    assert reason_of(queue, "second") == "needs 7 GPUs, 6 free; 1 job ahead"
    assert reason_of(queue, "third") == "needs 4 workers of 1 CPU and 1 GPU (strict_pack); 3 fit now; 2 jobs ahead"
