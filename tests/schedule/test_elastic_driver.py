"""The driver of an elastic job: how many workers each attempt has, when it is to end for a larger one, and why."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from schedule.test_driver_queue import FakePlace

from orchestrator.core.errors import SUCCESS
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.core.values import Failure
from orchestrator.schedule import driver as module
from orchestrator.schedule import place
from orchestrator.schedule.attempt import Ended
from orchestrator.schedule.cluster import Fits, Waits, admit, silent_nodes
from orchestrator.schedule.driver import JobDriver
from orchestrator.schedule.place import OwnPlace, QueuedPlace
from orchestrator.schedule.queue.grow import GROWTH_PAUSE_S
from orchestrator.schedule.queue.keeper import Answer
from orchestrator.schedule.queue.values import Use
from orchestrator.spec.job import Resources, WorkerRange

SPEC = "name: tiny\nrecipe: {target: 'tiny.py:Digits'}\ntrain: {steps: 6}\nresources: {workers: {min: 2, max: 4}}\n"
SCRIPT = "name: tiny\nscript: {path: train.py}\nresources: {workers: {min: 2, max: 4}}\n"
STOPPED = Ended("stopped", "stopped at step 3, checkpoint written")
FINISHED = Ended("finished", "finished 6 steps")
LOST = Failure(cause="worker_lost", message="rank 3 disappeared", rank=3)
ELASTIC = Resources(workers=WorkerRange(min=2, max=4))
FOUR_CPUS, THREE_CPUS, ONE_CPU = [{"CPU": 4.0}], [{"CPU": 3.0}], [{"CPU": 1.0}]


class FakeHistory:
    uri, run_id = "sqlite:///nowhere.db", "0"


class FakeAttempt:
    """Lives for three looks, and ends as it is told."""

    has_workers = True

    def __init__(self, place: FakePlace, workers_after: int, result: Ended | Failure) -> None:
        self._place, self._workers_after, self._result, self._looks = place, workers_after, result, 0

    def start(self) -> None:
        pass

    def wait(self, timeout_s: float) -> Ended | Failure | None:
        self._looks += 1
        if self._looks == 2:
            self._place.workers = self._workers_after
        return self._result if self._looks == 4 else None


def drive(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    lives: list[tuple[int, Ended | Failure]],
    text: str = SPEC,
    exit_code: int = SUCCESS,
) -> tuple[JobDriver, FakePlace, list[int]]:
    """Drive a job whose attempts end so, with as many workers to be had at the end of each; and how many each had."""
    directory = RunDirectory(root)
    root.mkdir(parents=True, exist_ok=True)
    directory.resolved_spec.write_text(text, encoding="utf-8")
    driver, fake, had = JobDriver(directory, embedded=True), FakePlace(None), []
    fake.workers = 2
    left = list(lives)

    def one_attempt(directory: object, number: int, spec: Any, *_: object) -> FakeAttempt:
        had.append(spec.resources.workers)
        return FakeAttempt(fake, *left.pop(0))

    monkeypatch.setattr(module, "_attempt", one_attempt)
    monkeypatch.setattr(module, "_POLL_S", 0.0)
    driver._place = fake
    assert driver._drive(FakeHistory()) == exit_code  # type: ignore[arg-type]  # all that an attempt asks of it
    return driver, fake, had


def resized(driver: JobDriver) -> list[tuple[int, int, str]]:
    events = read_json_lines(driver._directory.events_file)
    return [(event["from"], event["to"], event["why"]) for event in events if event["event"] == "resized"]


def test_more_room_ends_an_attempt_and_begins_a_larger_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, fake, had = drive(tmp_path, monkeypatch, [(4, STOPPED), (4, FINISHED)])
    assert had == [2, 4]
    assert resized(driver) == [(2, 4, "room for more")]
    assert fake.calls == ["begin", "begin"]  # what it holds is not given back
    assert not driver._policy.used
    assert not driver._directory.preempt_file.exists()
    state = driver._directory.read_state()
    assert (state["num_workers"], state["worker_range"]) == (4, {"min": 2, "max": 4})


def test_a_loss_is_followed_by_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, fake, had = drive(tmp_path, monkeypatch, [(4, STOPPED), (3, LOST), (3, FINISHED)])
    assert had == [2, 4, 3]
    assert resized(driver) == [(2, 4, "room for more"), (4, 3, "rank 3 disappeared")]
    assert fake.calls == ["begin", "begin", "doubt", "begin"]
    assert driver._policy.used == {"worker_lost": 1}


def test_nothing_is_told_where_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, _, had = drive(tmp_path, monkeypatch, [(2, LOST), (2, FINISHED)])
    assert (had, resized(driver)) == ([2, 2], [])


def test_a_new_driver_tells_what_the_last_one_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunDirectory(tmp_path).update_state(num_workers=3)
    driver, _, _ = drive(tmp_path, monkeypatch, [(2, FINISHED)])
    assert resized(driver) == [(3, 2, "resumed")]


def test_a_script_is_not_stopped_to_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, had = drive(tmp_path, monkeypatch, [(4, STOPPED)], SCRIPT, module.STOPPED)
    assert had == [2]


def test_a_job_with_a_number_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SPEC.replace("{min: 2, max: 4}", "2")
    driver, _, had = drive(tmp_path, monkeypatch, [(4, STOPPED)], text, module.STOPPED)
    assert had == [2]
    assert driver._directory.read_state()["worker_range"] is None


# ---- how many are asked for

ASKING = SPEC.replace("max: 4", "max: 4, samples_per_worker: 40") + "batch: {global_size: 96}\n"


def wants(root: Path, workers: int) -> None:
    """As the ranks write it down."""
    with RunDirectory(root).metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": 3, "loss": 1.0, "workers_wanted": workers}) + "\n")


def test_a_job_that_asks_begins_with_what_its_batch_calls_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, fake, _ = drive(tmp_path, monkeypatch, [(2, FINISHED)], ASKING)
    assert set(fake.wanted) == {3}
    assert driver._directory.read_state()["workers_wanted"] == 3


def test_goodput_begins_with_the_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (config, wanted) in enumerate((("", {2}), (", min_utility: null", set()))):
        text = f"{SPEC}batch: {{controller: {{name: goodput{config}}}, micro_size: 8}}\n"
        driver, fake, _ = drive(tmp_path / str(number), monkeypatch, [(2, FINISHED)], text)
        assert set(fake.wanted) == wanted
        assert driver._directory.read_state()["workers_wanted"] == next(iter(wanted), None)


def test_what_the_ranks_ask_for_reaches_the_place_within_the_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wanted, expected in ((1, 2), (4, 4), (9, 4)):
        wants(tmp_path, wanted)
        driver, fake, _ = drive(tmp_path, monkeypatch, [(2, FINISHED)], ASKING)
        assert set(fake.wanted) == {expected}
        assert driver._directory.read_state()["workers_wanted"] == expected


def test_a_range_alone_asks_for_nothing_whatever_an_older_line_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wants(tmp_path, 3)
    driver, fake, _ = drive(tmp_path, monkeypatch, [(2, FINISHED)])
    assert (fake.wanted, driver._directory.read_state()["workers_wanted"]) == ([], None)


def test_growth_and_the_return_of_workers_are_told_with_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wants(tmp_path, 3)
    driver, fake, had = drive(tmp_path, monkeypatch, [(3, STOPPED), (2, STOPPED), (2, FINISHED)], ASKING)
    assert had == [2, 3, 2]
    assert resized(driver) == [(2, 3, "3 asked for"), (3, 2, "3 asked for")]
    assert fake.calls == ["begin"] * 3  # what it keeps is not given back
    assert not driver._policy.used


# ---- how many fit


@pytest.mark.parametrize(
    ("resources", "expected"),
    [(ELASTIC, 4), (Resources(workers=WorkerRange(min=2, max=9)), 5), (Resources(workers=3), 3)],
)
def test_as_many_as_fit_within_the_range(resources: Resources, expected: int) -> None:
    assert admit(resources, [{"CPU": 3.0}, {"CPU": 2.0}]) == Fits(expected)


def test_fewer_than_the_least_wait() -> None:
    answer = admit(ELASTIC, ONE_CPU)
    assert isinstance(answer, Waits)
    assert answer.reason.startswith("needs 2 to 4 workers of 1 CPUs and 0 GPUs (pack); 1 fit now")


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(place, "time", clock)
    return clock


def own_place(monkeypatch: pytest.MonkeyPatch, free: Any, total: Any, tmp_path: Path) -> OwnPlace:
    monkeypatch.setattr(place, "free_resources", lambda: free)
    monkeypatch.setattr(place, "total_resources", lambda: total)
    (tmp_path / "resolved.yaml").write_text(SPEC, encoding="utf-8")
    return OwnPlace(JobDriver(RunDirectory(tmp_path), embedded=True)._spec)


def test_a_private_place_waits_a_moment_for_what_the_last_attempt_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    own = own_place(monkeypatch, THREE_CPUS, FOUR_CPUS, tmp_path)
    own.begin()
    assert own.waits_for() == "3 workers fit now; the last attempt may not have ended everywhere"
    clock.now += place._SETTLE_S
    assert (own.waits_for(), own.workers) == (None, 3)


def test_a_private_place_looks_for_room_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    own = own_place(monkeypatch, THREE_CPUS, THREE_CPUS, tmp_path)
    own.begin()
    assert (own.waits_for(), own.workers) == (None, 3)
    monkeypatch.setattr(place, "total_resources", lambda: FOUR_CPUS)
    assert not own.has_room_beyond(3)
    clock.now += GROWTH_PAUSE_S
    assert own.has_room_beyond(3)
    clock.now += GROWTH_PAUSE_S
    assert not own.has_room_beyond(4)


def test_a_private_place_takes_no_more_than_is_asked_for_and_changes_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    own = own_place(monkeypatch, FOUR_CPUS, FOUR_CPUS, tmp_path)
    own.want(2)
    own.begin()
    assert (own.waits_for(), own.workers) == (None, 2)
    clock.now += GROWTH_PAUSE_S
    assert (own.has_room_beyond(2), own.has_too_many(2)) == (False, False)
    own.want(3)
    assert own.has_room_beyond(2)
    assert not own.has_too_many(4)  # it has looked just now
    clock.now += GROWTH_PAUSE_S
    assert own.has_too_many(4)
    own.begin()
    assert (own.waits_for(), own.workers) == (None, 3)


# ---- the shared queue's place


class FakeSeat:
    def __init__(self, answer: Answer | None) -> None:
        self.answer = answer
        self.turns = 0
        self.kept: tuple[Use, ...] | None = None

    def wait_again(self) -> None:
        self.turns += 1

    def keep(self, uses: tuple[Use, ...]) -> None:
        self.kept = uses


def held(uses: Mapping[str, int], **fields: Any) -> Answer:
    return Answer(uses=tuple(Use(node, workers) for node, workers in uses.items()), again_s=1.0, **fields)


def queued(tmp_path: Path, answer: Answer, text: str = SPEC) -> tuple[QueuedPlace, FakeSeat]:
    directory = RunDirectory(tmp_path / "runs" / "tiny")
    directory.root.mkdir(parents=True, exist_ok=True)
    directory.update_state(phase="queued", created_at=123.0)
    directory.resolved_spec.write_text(text, encoding="utf-8")
    found, seat = QueuedPlace(JobDriver(directory, embedded=True)._spec, directory), FakeSeat(answer)
    found._seat, found._has_begun = seat, True  # type: ignore[assignment]
    return found, seat


def test_the_queue_is_told_of_the_range_and_tells_the_number(tmp_path: Path) -> None:
    queued_place, seat = queued(tmp_path, held({"n0": 2, "n1": 1}))
    request = queued_place._request()
    assert (request.demand.workers, request.max_workers) == (2, 4)
    assert queued_place.workers == 3
    assert (queued_place.has_room_beyond(2), queued_place.has_room_beyond(3)) == (True, False)
    shown = {key: queued_place.state[key] for key in ("workers", "cpus", "max_workers")}
    assert shown == {"workers": 3, "cpus": 3.0, "max_workers": 4}
    seat.answer = Answer(uses=None, again_s=1.0)
    assert (queued_place.state["workers"], queued_place.workers) == (2, 0)


def test_the_queue_is_told_what_is_asked_for_and_given_back_the_rest(tmp_path: Path) -> None:
    queued_place, seat = queued(tmp_path, held({"n0": 3, "n1": 1}))
    assert queued_place._request().wanted_workers == 4
    queued_place.want(3)
    assert queued_place._request().wanted_workers == 3
    assert (queued_place.has_room_beyond(3), queued_place.has_room_beyond(2)) == (False, True)
    assert not queued_place.has_too_many(4)  # it has grown just now
    seat.answer = held({"n0": 3, "n1": 1}, is_settled=True)
    assert (queued_place.has_too_many(4), queued_place.has_too_many(3)) == (True, False)
    queued_place.begin()
    assert (seat.kept, seat.turns) == ((Use("n0", 3),), 0)


def test_what_is_left_of_a_place_is_kept_where_it_is_enough(tmp_path: Path) -> None:
    for uses, kept, text in (
        ({"n0": 2, "n1": 2}, (Use("n0", 2),), SPEC),
        ({"n0": 1, "n1": 3}, None, SPEC),
        ({"n0": 2, "n1": 2}, None, SPEC.replace("{min: 2, max: 4}", "4")),
        ({"n0": 2, "n1": 0}, None, SPEC.replace("{min: 2, max: 4}", "2")),  # of a served job's shard
    ):
        queued_place, seat = queued(tmp_path, held(uses, lost_nodes=("n1",)), text)
        queued_place.begin()
        assert (seat.kept, seat.turns) == (kept, int(kept is None)), uses


def test_after_a_loss_nodes_are_asked_before_an_attempt_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent: set[str] = {"n1"}
    monkeypatch.setattr(place, "silent_nodes", lambda names: silent & set(names))
    queued_place, seat = queued(tmp_path, held({"n0": 2, "n1": 1}))
    queued_place.begin()
    assert queued_place.waits_for() is None  # nothing has failed
    assert queued_place.doubt() == {"n1"}
    queued_place.begin()
    assert queued_place.waits_for() == "node n1 of its place does not answer"
    assert (seat.kept, seat.turns) == ((Use("n0", 2),), 0)
    seat.answer = held({"n0": 2})
    assert queued_place.waits_for() is None

    fixed, seat = queued(tmp_path, held({"n0": 2, "n1": 1}), SPEC.replace("{min: 2, max: 4}", "3"))
    assert fixed.doubt() == {"n1"}
    fixed.begin()
    assert fixed.waits_for() == "node n1 of its place does not answer"  # Ray has not given it up
    assert (seat.kept, seat.turns) == (None, 0)
    seat.answer = held({"n0": 2, "n1": 1}, lost_nodes=("n1",))
    assert fixed.waits_for() == "a node of its place is gone"
    assert (seat.kept, seat.turns) == (None, 1)


def test_a_node_is_silent_where_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as closed:
        nodes = [
            {"NodeID": name, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": one.getsockname()[1]}
            for name, one in (("alive", server), ("dead", closed))
        ]
        closed.close()
        monkeypatch.setattr("orchestrator.schedule.cluster.ray.nodes", lambda: nodes)
        assert silent_nodes(["alive", "dead", "unknown"]) == {"dead", "unknown"}


@pytest.mark.parametrize(
    ("gone", "message"),
    [(["7f652a11"], "node 7f652a disappeared"), (["7f652a11", "3aa18222"], "nodes 3aa182, 7f652a disappeared")],
)
def test_a_rank_that_fails_for_a_lost_node_is_not_to_blame(
    gone: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakePlace, "doubt", lambda self: gone)
    crash = Failure(cause="worker_crash", message="RuntimeError: connection reset by peer", rank=0)
    driver, _, _ = drive(tmp_path, monkeypatch, [(3, crash), (3, FINISHED)])
    assert driver._policy.used == {"worker_lost": 1}
    assert resized(driver) == [(2, 3, message)]
