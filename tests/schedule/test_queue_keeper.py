"""What the keeper of the queue makes of drivers that report twice, late, anew or never again."""

from __future__ import annotations

from dataclasses import replace

from schedule.queue_cases import demand, request, states

from orchestrator.schedule.queue.keeper import GRACE_S, LEASE_S, NOT_HEARD_YET, REPORT_EVERY_S, Answer, Keeper, Report
from orchestrator.schedule.queue.seat import _ANSWER_TIMEOUT_S
from orchestrator.schedule.queue.values import Use

BORN = 1000.0
OPEN = BORN + GRACE_S
CLUSTER = states([(4, 0)])
NO_LIMITS = (None, None)


def report(name: str, cpus: int = 4, turn: str = "1", **fields: object) -> Report:
    of_job = {key: fields.pop(key) for key in ("priority", "preemptible", "submitted") if key in fields}
    return Report(request=request(name, demand(cpus), **of_job), turn=turn, **fields)  # type: ignore[arg-type]


def keeper_at(now: float = BORN) -> Keeper:
    keeper = Keeper(now)
    keeper.look(CLUSTER, NO_LIMITS, now)
    return keeper


def told(keeper: Keeper, what: Report, now: float) -> Answer:
    return keeper.report(what, now)


def test_after_a_death_holders_are_heard_before_anybody_starts() -> None:
    keeper = keeper_at()
    waiting = report("urgent", priority=9)
    answer = told(keeper, waiting, BORN + 0.1)
    assert (answer.uses, answer.position, answer.reason) == (None, 1, NOT_HEARD_YET)
    held = (Use("n0", 3),)
    assert told(keeper, report("holder", 3, uses=held, held_since=5.0), OPEN - 1).uses == held
    answer = told(keeper, waiting, OPEN)
    assert (answer.uses, answer.reason) == (None, "needs 4 CPUs, 1 free; first in the queue")


def test_a_driver_without_an_answer_is_back_before_the_grace_is_over() -> None:
    assert _ANSWER_TIMEOUT_S + 2 * REPORT_EVERY_S < GRACE_S < LEASE_S


def test_reports_may_come_twice_and_a_place_is_told_again() -> None:
    keeper = keeper_at()
    first = told(keeper, report("a"), OPEN)
    assert first.uses == (Use("n0", 4),)
    assert told(keeper, report("a"), OPEN + 1) == first  # the answer was lost
    assert told(keeper, report("a", uses=first.uses), OPEN + 2) == first
    assert told(keeper, report("b"), OPEN + 3).uses is None


def test_the_dead_lose_their_place_and_the_silent_their_turn() -> None:
    keeper = keeper_at()
    told(keeper, report("holder"), OPEN)
    told(keeper, report("silent"), OPEN)
    told(keeper, report("patient", submitted=1.0), OPEN)
    for second in range(int(LEASE_S) + 1):
        assert told(keeper, report("patient", submitted=1.0), OPEN + second).uses is None
    keeper.look(CLUSTER, NO_LIMITS, OPEN + LEASE_S + 1)
    answer = told(keeper, report("patient", submitted=1.0), OPEN + LEASE_S + 1)
    assert (answer.uses, answer.num_waiting) == ((Use("n0", 4),), 0)


def test_a_holder_that_was_taken_for_dead_is_believed() -> None:
    keeper = keeper_at()
    place = told(keeper, report("a", 2), OPEN).uses
    keeper.look(CLUSTER, NO_LIMITS, OPEN + LEASE_S + 1)
    assert told(keeper, report("a", 2, uses=place), OPEN + LEASE_S + 2).uses == place
    assert told(keeper, report("b", 3), OPEN + LEASE_S + 3).uses is None


def test_a_new_turn_gives_the_place_back() -> None:
    keeper = keeper_at()
    told(keeper, report("a", submitted=2.0), OPEN)
    told(keeper, report("b", submitted=1.0), OPEN)
    again = told(keeper, report("a", turn="2", submitted=2.0), OPEN + 1)
    assert (again.uses, again.position) == (None, 1)  # b has started in its place, before it was asked itself
    assert told(keeper, report("b", submitted=1.0), OPEN + 2).uses == (Use("n0", 4),)


def test_a_late_goodbye_does_not_end_the_next_driver_of_the_job() -> None:
    keeper = keeper_at()
    told(keeper, report("a"), OPEN)
    told(keeper, report("a", turn="2"), OPEN)
    keeper.leave("a", "1")
    assert told(keeper, report("b", 1), OPEN).uses is None
    keeper.leave("a", "2")
    assert told(keeper, report("b", 1), OPEN).uses is not None


def test_who_is_to_make_room_is_told_until_it_does() -> None:
    keeper = keeper_at()
    low = report("low", preemptible=True)
    told(keeper, low, OPEN)
    urgent = report("urgent", priority=3)
    told(keeper, urgent, OPEN)
    keeper.leave("urgent", "1")  # has been stopped: the question stands, the victim may be on its way
    for second in (1, 2):
        asked_by = told(keeper, low, OPEN + second).makes_room_for
        assert asked_by is not None
        assert asked_by.name == "urgent"
    answer = told(keeper, replace(low, turn="2"), OPEN + 3)
    assert (answer.uses, answer.makes_room_for) == ((Use("n0", 4),), None)


def test_many_drivers_report_less_often() -> None:
    keeper = keeper_at()
    for number in range(600):
        answer = told(keeper, report(f"j{number}", 1), BORN)
    assert answer.again_s == 2.0


def test_a_node_that_is_gone_is_told() -> None:
    keeper = keeper_at()
    told(keeper, report("a"), OPEN)
    assert told(keeper, report("a"), OPEN).lost_nodes == ()
    keeper.look(states([]), NO_LIMITS, OPEN + 1)
    assert told(keeper, report("a"), OPEN + 1).lost_nodes == ("n0",)
