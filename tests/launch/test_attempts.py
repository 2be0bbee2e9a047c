"""Attempts and their cost, from events as drivers write them."""

from typing import Any

import pytest

from orchestrator.launch.attempts import attempts_of


def event(time: float, name: str, **fields: Any) -> dict[str, Any]:
    return {"time": time, "event": name, **fields}


def placed(time: float, attempt: int, workers: int = 2) -> dict[str, Any]:
    return event(time, "placed", attempt=attempt, workers=workers)


def test_one_undisturbed_attempt_costs_its_workers_from_being_placed_to_its_end() -> None:
    events = [event(1000, "queued", resumed=False), placed(1100, 1), event(1110, "started", step=0)]
    events += [event(2900, "succeeded", reason=None, message="finished 9 steps")]
    (attempt,) = attempts_of(events)
    assert (attempt.number, attempt.workers, attempt.from_step) == (1, 2, 0)
    assert (attempt.ending, attempt.message) == ("succeeded", "finished 9 steps")
    assert attempt.seconds(now_s=1e9) == 1800
    assert attempt.worker_hours(now_s=1e9) == 1.0


def test_a_restart_ends_one_attempt_and_waiting_costs_nothing() -> None:
    events = [placed(100, 1, 4), event(110, "started", step=0)]
    events += [event(200, "restarting", cause="worker_lost", message="rank 1 died")]
    events += [event(300, "waiting", reason="no room"), placed(900, 2, 3), event(910, "resumed", step=5)]
    events += [event(1000, "gave_up", cause="user_error", message="no"), event(1001, "failed", reason="user_error")]
    first, second = attempts_of(events)
    assert (first.ending, first.message, first.seconds(0)) == ("worker_lost", "rank 1 died", 100)
    assert (second.ending, second.from_step, second.seconds(0)) == ("user_error", 5, 100)


def test_an_attempt_that_goes_on_costs_up_to_now() -> None:
    (attempt,) = attempts_of([placed(100, 1), event(110, "started", step=0)])
    assert (attempt.ended_at, attempt.ending) == (None, "goes on")
    assert attempt.worker_hours(now_s=1900) == 1.0


@pytest.mark.parametrize("end", [event(9e6, "driver_lost", phase="failed"), event(9e6, "queued"), placed(9e6, 2)])
def test_a_driver_that_vanished_costs_up_to_its_last_sign_of_life(end: dict[str, Any]) -> None:
    events = [placed(100, 1), event(110, "started", step=0), event(150, "checkpoint_saved", step=3), end]
    assert attempts_of(events)[0].ended_at == 150
    assert attempts_of(events, [120.0, 170.0, 9.1e6])[0].ended_at == 170
    assert attempts_of(events)[0].ending == "driver_lost"


def preempted(time: float) -> list[dict[str, Any]]:
    """Four workers that a more urgent job asks to go."""
    return [placed(100, 1, 4), event(110, "started", step=0), event(time, "preempted", by="urgent", step=5)]


@pytest.mark.parametrize("again", [{"event": "queued", "position": 1}, {"event": "granted", "nodes": {}}])
def test_a_preempted_attempt_costs_up_to_when_its_driver_waits_again(again: dict[str, Any]) -> None:
    events = [*preempted(150), event(170, "checkpoint_saved", step=7), {"time": 190, **again}]
    events += [event(900, "granted"), placed(910, 2, 4), event(1000, "succeeded", reason=None, message="done")]
    first, second = attempts_of(events, [120.0, 165.0])
    assert (first.ending, first.message, first.seconds(0)) == ("preempted", "made room for urgent", 90)
    assert (second.ending, second.seconds(0)) == ("succeeded", 90)


def test_an_attempt_that_was_to_make_room_may_end_in_another_way() -> None:
    (finished,) = attempts_of([*preempted(150), event(160, "succeeded", reason=None, message="done")])
    assert (finished.ending, finished.seconds(0)) == ("succeeded", 60)
    lost = [*preempted(150), event(9e6, "driver_lost", phase="failed"), event(9.1e6, "queued", resumed=True)]
    assert (attempts_of(lost)[0].ending, attempts_of(lost)[0].ended_at) == ("driver_lost", 150)
    resumed = [*preempted(150), event(9e6, "queued", resumed=True), event(9e6, "queued", position=1)]
    assert (attempts_of(resumed)[0].ending, attempts_of(resumed)[0].ended_at) == ("driver_lost", 150)


def test_a_preemption_is_forgotten_by_the_next_attempt() -> None:
    events = [*preempted(150), event(190, "queued", position=1), placed(900, 2), event(950, "started", step=7)]
    events += [event(9e6, "queued", resumed=True), event(9e6, "granted"), placed(9e6, 3)]
    first, second, third = attempts_of(events)
    assert (first.ending, second.ending, second.ended_at) == ("preempted", "driver_lost", 950)
    assert third.ending == "goes on"


def test_a_stop_is_told_by_its_reason() -> None:
    events = [placed(100, 1), event(200, "stopped", reason="stop_requested", message="stopped at step 6")]
    assert attempts_of(events)[0].ending == "stop_requested"


def test_without_a_placed_worker_there_is_no_attempt() -> None:
    assert attempts_of([event(1, "queued"), event(2, "failed", reason="timed_out")]) == []


def test_another_number_of_workers_ends_one_attempt_and_begins_another() -> None:
    events = [placed(100, 1, 2), event(110, "started", step=0), event(190, "checkpoint_saved", step=7)]
    events += [event(200, "resized", **{"from": 2, "to": 4, "why": "room for more", "step": 7})]
    events += [placed(210, 2, 4), event(220, "resumed", step=7), event(300, "succeeded", reason=None, message="done")]
    first, second = attempts_of(events)
    assert (first.ending, first.workers, first.seconds(0)) == ("resized", 2, 100)
    assert (second.ending, second.workers, second.seconds(0), second.from_step) == ("succeeded", 4, 90, 7)
