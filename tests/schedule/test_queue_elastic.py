"""Elastic jobs in the queue: how many workers they get, when they get more, and for whom they leave room."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from schedule.queue_cases import after, demand, fits, granted, preempted, queue_of, random_nodes, request, states

from orchestrator.schedule.queue.core import SharedQueue
from orchestrator.schedule.queue.grow import GROWTH_PAUSE_S, smaller_place
from orchestrator.schedule.queue.keeper import GRACE_S, Answer, Keeper, Report
from orchestrator.schedule.queue.values import UNIT, Grown, Quota, Request, Use

LATER = GROWTH_PAUSE_S
NO_LIMITS = (None, None)


def elastic(key: str, least: int, most: int, placement: str = "pack", **fields: object) -> Request:
    fields = {"preemptible": True, **fields}
    return request(key, demand(least, placement=placement), max_workers=most, **fields)


def fixed(key: str, workers: int, **fields: object) -> Request:
    return request(key, demand(workers), **{"preemptible": True, **fields})


def workers_of(queue: SharedQueue, key: str) -> int:
    return sum(use.workers for use in queue.running[key].uses)


def grown(queue: SharedQueue, now: float) -> list[str]:
    return [decision.key for decision in queue.decide(now) if isinstance(decision, Grown)]


# ---- how many it starts with


@pytest.mark.parametrize(("cpus", "expected"), [(1, None), (2, 2), (5, 5), (8, 8), (9, 8)])
def test_it_starts_with_as_many_as_fit(cpus: int, expected: int | None) -> None:
    queue = queue_of((cpus, 0))
    queue.submit(elastic("a", 2, 8), 0)
    queue.decide(0)
    assert (workers_of(queue, "a") if "a" in queue.running else None) == expected


def test_it_starts_with_the_least_where_others_wait() -> None:
    queue = queue_of((4, 0))
    queue.submit(elastic("a", 1, 4, submitted=1), 0)
    queue.submit(fixed("b", 4, submitted=2), 0)
    assert granted(queue) == ["a"]
    assert (workers_of(queue, "a"), queue.head and queue.head.request.key) == (1, "b")


def test_the_first_in_the_queue_grows_first() -> None:
    queue = queue_of((6, 0))
    queue.submit(elastic("late", 1, 6, submitted=2), 0)
    queue.submit(elastic("early", 1, 3, submitted=1), 0)
    queue.submit(elastic("urgent", 1, 2, submitted=3, priority=1), 0)
    queue.decide(0)
    assert {key: workers_of(queue, key) for key in queue.running} == {"urgent": 2, "early": 3, "late": 1}


# ---- growth


def test_it_grows_after_a_pause_and_keeps_what_it_has() -> None:
    queue = queue_of((2, 0))
    queue.submit(elastic("a", 2, 5), 0)
    queue.decide(0)
    before = queue.running["a"].uses
    queue.refresh(states([(2, 0), (2, 0)]))
    assert grown(queue, LATER - 1) == []
    assert grown(queue, LATER) == ["a"]
    assert queue.running["a"].uses == (*before, Use("n1", 2))
    queue.refresh(states([(2, 0), (2, 0), (9, 0)]))
    assert grown(queue, 2 * LATER - 1) == []
    assert grown(queue, 2 * LATER) == ["a"]
    assert workers_of(queue, "a") == 5
    assert queue.nodes.free.tolist() == [[0, 0, 8 * UNIT], [0, 0, 0]]


def test_it_does_not_grow_while_somebody_waits_for_the_room() -> None:
    queue = queue_of((2, 0))
    queue.submit(elastic("a", 2, 4), 0)
    queue.decide(0)
    queue.submit(fixed("b", 4, priority=-1), 1)
    queue.refresh(states([(2, 0), (2, 0)]))
    assert grown(queue, LATER) == []
    queue.release("b")
    assert grown(queue, LATER) == ["a"]


def test_it_grows_onto_the_nodes_that_its_placement_allows() -> None:
    expected = {
        "pack": (Use("n0", 3), Use("n1", 2)),
        "strict_pack": (Use("n0", 3),),
        "spread": (Use("n0", 2), Use("n1", 3)),
        "strict_spread": (Use("n0", 1), Use("n1", 1)),
    }
    for placement, uses in expected.items():
        queue = queue_of((1, 0))
        queue.submit(elastic("a", 1, 5, placement), 0)
        queue.decide(0)
        queue.refresh(states([(3, 0), (3, 0)], free=[(2, 0), (3, 0)]))
        assert grown(queue, LATER) == ["a"], placement
        assert queue.running["a"].uses == uses, placement
        assert grown(queue, 2 * LATER) == []


def test_a_quota_bounds_it_and_the_owners_other_jobs_come_first() -> None:
    queue = queue_of((8, 0))
    ann = {"owner": "ann", "account": "ann", "quota": Quota(cpu=5 * UNIT)}
    queue.submit(elastic("a", 2, 8, **ann), 0)
    queue.decide(0)
    assert (workers_of(queue, "a"), queue.held["ann"]["cpu"]) == (5, 5 * UNIT)
    queue.release("a")
    assert queue.held["ann"]["cpu"] == 0
    queue.submit(fixed("b", 3, submitted=1.0, **ann), 1)
    queue.submit(elastic("a", 1, 8, submitted=2.0, **ann), 1)
    queue.submit(fixed("c", 2, submitted=3.0, **ann), 1)
    assert granted(queue, 1) == ["b", "a"]
    assert workers_of(queue, "a") == 1  # c waits for the quota, not for room
    queue.release("b")
    assert granted(queue, 2) == ["c"]
    assert grown(queue, 1 + LATER) == ["a"]
    assert (workers_of(queue, "a"), queue.held["ann"]["cpu"]) == (3, 5 * UNIT)


def test_a_script_grows_only_as_it_starts() -> None:
    queue = queue_of((3, 0))
    queue.submit(elastic("a", 1, 5, preemptible=False), 0)
    queue.decide(0)
    queue.refresh(states([(5, 0)], free=[(2, 0)]))
    assert (workers_of(queue, "a"), grown(queue, LATER)) == (3, [])


def test_it_does_not_grow_beside_a_node_that_is_gone() -> None:
    queue = queue_of((1, 0), (1, 0))
    queue.submit(elastic("a", 2, 4), 0)
    queue.decide(0)
    queue.refresh([*states([(1, 0)]), *states([(0, 0), (0, 0), (8, 0)])[2:]])
    assert (queue.lost_nodes("a"), grown(queue, LATER)) == (("n1",), [])


# ---- no more than is asked for


def test_it_takes_no_more_than_it_asks_for_and_grows_when_it_asks_for_more() -> None:
    queue = queue_of((9, 0))
    queue.submit(elastic("a", 1, 8, wanted_workers=2), 0)
    queue.decide(0)
    assert workers_of(queue, "a") == 2
    assert grown(queue, LATER) == []
    assert not queue.tell_wanted("a", 2)
    assert queue.tell_wanted("a", 5)
    assert grown(queue, LATER) == ["a"]
    assert workers_of(queue, "a") == 5
    queue.tell_wanted("a", 99)
    assert grown(queue, 2 * LATER) == ["a"]
    assert workers_of(queue, "a") == 8


def test_one_that_asks_for_fewer_keeps_what_it_has_until_it_gives_it_back_and_shares_it() -> None:
    queue = queue_of((4, 0))
    queue.submit(elastic("a", 1, 4), 0)
    queue.decide(0)
    queue.tell_wanted("a", 1)
    assert (grown(queue, LATER - 1), workers_of(queue, "a")) == ([], 4)
    assert [queue.is_settled("a", now) for now in (LATER - 1, LATER)] == [False, True]
    queue.submit(fixed("b", 2), LATER)
    assert preempted(queue, LATER) == ["a"]
    assert not queue.is_settled("a", 2 * LATER)  # it has been asked already


@pytest.mark.parametrize(
    ("placement", "held", "kept"),
    [
        ("pack", {"n0": 3, "n1": 1, "n2": 2}, {"n0": 3}),
        ("strict_pack", {"n0": 4}, {"n0": 3}),
        ("spread", {"n0": 3, "n1": 1, "n2": 2}, {"n0": 1, "n1": 1, "n2": 1}),
        ("strict_spread", {"n0": 1, "n1": 1, "n2": 1, "n3": 1}, {"n1": 1, "n2": 1, "n3": 1}),
    ],
)
def test_whole_nodes_are_given_back_where_workers_are_not_spread(
    placement: str, held: dict[str, int], kept: dict[str, int]
) -> None:
    uses = [Use(node, workers) for node, workers in held.items()]
    assert smaller_place(uses, 3, placement) == tuple(Use(node, workers) for node, workers in kept.items())


# ---- room for others


def test_it_shares_with_those_of_its_priority_and_grows_again() -> None:
    queue = queue_of((4, 0))
    queue.submit(elastic("a", 1, 4, submitted=1), 0)
    queue.decide(0)
    queue.submit(fixed("b", 2, submitted=2), 1)
    assert preempted(queue, LATER - 1) == []
    assert preempted(queue, LATER) == ["a"]
    assert preempted(queue, LATER + 1) == []  # it has been asked
    queue.release("a")
    queue.submit(elastic("a", 1, 4, submitted=1), LATER + 2)
    assert granted(queue, LATER + 2) == ["a", "b"]
    assert workers_of(queue, "a") == 2  # what b leaves
    queue.release("b")
    assert grown(queue, 2 * LATER + 2) == ["a"]
    assert workers_of(queue, "a") == 4


def test_it_is_not_asked_for_what_would_not_help_or_not_leave_it_the_least() -> None:
    queue = queue_of((4, 0))
    queue.submit(elastic("a", 3, 4, submitted=1), 0)
    queue.decide(0)
    for number, other in enumerate((fixed("b", 2), fixed("c", 1, priority=-1))):
        queue.submit(other, LATER + number)
        assert preempted(queue, LATER + number) == []
        queue.release(other.key)
    queue.submit(fixed("d", 4, priority=1), LATER)
    assert preempted(queue, LATER) == ["a"]  # as ever, by one that outranks it


def test_the_one_that_is_enough_is_asked_and_two_where_it_takes_two() -> None:
    for needed, expected in ((2, ["b"]), (3, ["b", "a"])):
        queue = queue_of((2, 0), (3, 0))
        queue.submit(elastic("a", 1, 2, "strict_pack", submitted=1), 0)
        queue.decide(0)
        queue.submit(elastic("b", 1, 3, "strict_pack", submitted=2), 1)
        queue.decide(1)
        queue.submit(fixed("c", needed, submitted=3), 2)
        assert preempted(queue, 2 * LATER) == expected


# ---- any life


@pytest.mark.parametrize("seed", range(80))
def test_in_any_life_places_stay_within_ranges_nodes_and_what_was_held(seed: int) -> None:
    rng = random.Random(seed)
    cluster = random_nodes(rng)
    queue = SharedQueue(growth_pause_s=3.0)
    queue.refresh(states(cluster))
    for now in range(60):
        least = rng.randint(1, 3)
        placement = rng.choice(("pack", "spread", "strict_pack", "strict_spread"))
        most = least + rng.choice((0, 0, 2, 5))
        fields = {"priority": rng.randint(0, 1), "wanted_workers": rng.choice((None, least + 1))}
        queue.submit(elastic(f"j{now}", least, most, placement, submitted=now, **fields), now)
        for key in queue.running:
            if rng.random() < 0.2:
                queue.tell_wanted(key, rng.randint(1, 8))
        if queue.running and rng.random() < 0.7:
            queue.release(rng.choice(sorted(queue.running)))
        before = {key: job.uses for key, job in queue.running.items()}
        decisions = queue.decide(now)
        assert not (any(isinstance(one, Grown) for one in decisions) and queue.head is not None)
        for key, job in queue.running.items():
            uses, what = job.uses, job.request.demand
            assert what.workers <= workers_of(queue, key) <= job.request.max_workers
            held = {use.node: use.workers for use in uses}
            assert all(held.get(use.node, 0) >= use.workers for use in before.get(key, ()))
            if what.placement == "strict_spread":
                assert max(held.values()) == 1
            if what.placement == "strict_pack":
                assert len(held) == 1
        left = after(cluster, [(job.request.demand, job.uses) for job in queue.running.values()])
        assert min(min(node) for node in left) >= 0
        assert queue.held.get("", Counter())["cpu"] == sum(workers_of(queue, key) for key in queue.running) * UNIT
        if queue.head is None:  # then whoever may grow has nothing left to take
            for job in queue.running.values():
                is_free = job.asked_for is None and now - job.started >= 3.0
                if is_free and job.request.demand.placement in ("pack", "spread"):
                    wanted = job.request.wanted_workers or job.request.max_workers
                    enough = min(job.request.max_workers, wanted)
                    assert workers_of(queue, job.request.key) >= enough or not fits(demand(1), left)


# ---- the keeper, whose drivers hear of it late


def told(
    keeper: Keeper, now: float, uses: tuple[Use, ...] | None, turn: str = "1", wanted: int | None = None
) -> Answer:
    request = elastic("a", 1, 4, wanted_workers=wanted)
    return keeper.report(Report(request=request, turn=turn, uses=uses, held_since=now), now)


def test_growth_stays_until_the_driver_has_heard_of_it() -> None:
    keeper = Keeper(0.0, grace_s=0.0, lease_s=1000.0)
    keeper.look(states([(2, 0)]), NO_LIMITS, 1.0)
    small = told(keeper, 1.0, None).uses
    assert small == (Use("n0", 2),)
    keeper.look(states([(4, 0)], free=[(2, 0)]), NO_LIMITS, LATER + 1)
    keeper.report(Report(request=fixed("b", 8), turn="1"), LATER + 1)  # another driver's report makes it grow
    for _ in range(2):  # the first answer may be lost
        large = told(keeper, LATER + 2, small).uses
        assert large == (Use("n0", 4),)
    assert told(keeper, LATER + 3, large).uses == large


def test_a_driver_that_asks_for_more_is_heard_at_once_and_for_fewer_once_it_may_change() -> None:
    keeper = Keeper(0.0, grace_s=0.0, lease_s=1000.0)
    keeper.look(states([(4, 0)]), NO_LIMITS, 1.0)
    uses = told(keeper, 1.0, None, wanted=1).uses
    assert uses == (Use("n0", 1),)
    answer = told(keeper, 1.0 + LATER, uses, wanted=1)
    assert (answer.uses, answer.is_settled) == (uses, True)
    answer = told(keeper, 2.0 + LATER, uses, wanted=3)
    assert (answer.uses, answer.is_settled) == ((Use("n0", 3),), False)
    for now, is_settled in ((3.0 + LATER, False), (2.0 + 2 * LATER, True)):
        answer = told(keeper, now, answer.uses, wanted=1)
        assert (answer.uses, answer.is_settled) == ((Use("n0", 3),), is_settled)
    kept = told(keeper, 3.0 + 2 * LATER, (Use("n0", 1),), turn="2", wanted=1)
    assert (kept.uses, kept.is_settled) == ((Use("n0", 1),), False)


def test_a_driver_that_keeps_a_part_of_its_place_gives_back_the_rest() -> None:
    keeper = Keeper(0.0, grace_s=0.0)
    keeper.look(states([(2, 0), (2, 0)]), NO_LIMITS, 1.0)
    place = told(keeper, 1.0, None).uses
    assert place is not None
    assert sum(use.workers for use in place) == 4
    # Ray has not noticed yet that n1 is gone, and the driver has.
    assert told(keeper, 2.0, (Use("n0", 2),), turn="2").uses == (Use("n0", 2),)
    keeper.look(states([(2, 0)], free=[(0, 0)]), NO_LIMITS, 3.0)
    answer = told(keeper, 3.0, (Use("n0", 2),), turn="2")
    assert (answer.uses, answer.lost_nodes) == ((Use("n0", 2),), ())
    assert GRACE_S < GROWTH_PAUSE_S  # nobody grows onto a node that Ray has not given up yet
