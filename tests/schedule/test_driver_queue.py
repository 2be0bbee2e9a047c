"""The driver and its place: waits on record, room that is made, and who wins when two want the job to stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import STOPPED, SUCCESS
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.core.values import Failure
from orchestrator.schedule import driver as module
from orchestrator.schedule.attempt import Ended
from orchestrator.schedule.driver import JobDriver, PlacementTimeoutError
from orchestrator.schedule.place import OwnPlace, QueuedPlace, demand_of, quota_of
from orchestrator.schedule.queue.keeper import Answer
from orchestrator.schedule.queue.values import UNIT, Demand, Quota, Use
from orchestrator.spec.job import JobSpec, ScriptJobSpec
from orchestrator.spec.quotas import OwnerQuota

SPEC = "name: tiny\nrecipe: {target: 'tiny.py:Digits'}\ntrain: {steps: 6}\nqueue: {timeout_s: 5.0, owner: ann}\n"
WAITS = {"priority": 0, "owner": "ann", "position": 2, "waiting": 3}
HAS_PLACE = {"priority": 0, "owner": "ann", "position": 0, "waiting": 3, "nodes": {"n": 1}}


class FakePlace:
    """Answers from a list of reasons; None is a place."""

    phase = "queued"
    uses = None
    workers = 1

    def __init__(self, *reasons: str | None) -> None:
        self.reasons = list(reasons)
        self.calls: list[str] = []
        self.needed_by: str | None = None
        self.wanted: list[int] = []

    @property
    def state(self) -> Mapping[str, Any]:
        return WAITS if self.reasons and self.reasons[0] is not None else HAS_PLACE

    def begin(self) -> None:
        self.calls.append("begin")

    def waits_for(self) -> str | None:
        return self.reasons.pop(0) if len(self.reasons) > 1 else self.reasons[0]

    def is_needed_by(self) -> str | None:
        return self.needed_by

    def want(self, num_workers: int) -> None:
        self.wanted.append(num_workers)

    def has_room_beyond(self, num_workers: int) -> bool:
        return self.workers > num_workers

    def has_too_many(self, num_workers: int) -> bool:
        return bool(self.wanted) and self.workers < num_workers

    def doubt(self) -> list[str]:
        self.calls.append("doubt")
        return []

    def give_back(self) -> None:
        self.calls.append("give_back")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobDriver:
    directory = RunDirectory(tmp_path)
    directory.resolved_spec.write_text(SPEC)
    monkeypatch.setattr(module, "_POLL_S", 0.0)
    return JobDriver(directory, embedded=True)


def events(driver: JobDriver) -> list[dict[str, Any]]:
    return list(read_json_lines(driver._directory.events_file))


def test_a_wait_is_on_record_and_its_reasons_are_not_told_at_every_change(driver: JobDriver) -> None:
    driver._place = FakePlace("first", "second", "third", "third", None)
    driver._wait_for_place()
    assert [event["event"] for event in events(driver)] == ["queued", "granted"]
    assert {key: events(driver)[0][key] for key in ("position", "waiting", "reason")} == {
        "position": 2,
        "waiting": 3,
        "reason": "first",
    }
    state = driver._directory.read_state()
    assert (state["phase"], state["message"], state["queue"]) == ("queued", "third", HAS_PLACE)


def test_a_wait_in_the_queue_ends_with_its_timeout(driver: JobDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver._place = FakePlace("needs 8 GPUs, 6 free; 2 jobs ahead")
    monkeypatch.setattr(module.WaitRecord, "waited_s", 6.0)
    with pytest.raises(PlacementTimeoutError, match=r"queue\.timeout_s = 5 s: needs 8 GPUs, 6 free; 2 jobs ahead$"):
        driver._wait_for_place()


def test_a_stop_ends_the_wait_without_a_place(driver: JobDriver) -> None:
    driver._place = FakePlace("never")
    driver._directory.stop_file.touch()
    assert driver._drive(None) == STOPPED  # type: ignore[arg-type]  # no attempt is made
    assert [event["event"] for event in events(driver)] == ["stopped"]


def attempts(driver: JobDriver, monkeypatch: pytest.MonkeyPatch, *results: Any, stop_in: int | None = None) -> None:
    """Attempts that end like that; the place is needed by somebody in the first one."""
    left = list(results)

    def one_attempt(history: object) -> Any:
        place = driver._place
        assert isinstance(place, FakePlace)
        if len(left) == len(results):
            place.needed_by = "urgent (priority 5)"
            driver._make_room_if_needed()
            driver._make_room_if_needed()
            assert driver._directory.should_stop()
            place.needed_by = None
        else:
            assert not driver._directory.should_stop()
        if stop_in == len(results) - len(left):
            driver._directory.stop_file.touch()
        return left.pop(0)

    monkeypatch.setattr(driver, "_one_attempt", one_attempt)


def test_a_job_that_made_room_waits_again_and_goes_on(driver: JobDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver._place = place = FakePlace(None)
    attempts(driver, monkeypatch, Ended("stopped", "stopped at step 3"), Ended("finished", "finished 6 steps"))
    assert driver._drive(None) == SUCCESS  # type: ignore[arg-type]  # the stand-in attempt has no history
    assert place.calls == ["begin", "give_back", "begin"]
    assert [event["event"] for event in events(driver)] == ["granted", "preempted", "granted", "succeeded"]
    assert events(driver)[1]["by"] == "urgent (priority 5)"
    assert not driver._policy.used


def test_a_job_that_finishes_before_it_could_make_room_is_done(
    driver: JobDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver._place = FakePlace(None)
    attempts(driver, monkeypatch, Ended("finished", "finished 6 steps"))
    assert driver._drive(None) == SUCCESS  # type: ignore[arg-type]  # as above
    assert not driver._directory.preempt_file.exists()


def test_a_persons_stop_wins_over_somebody_elses_need(driver: JobDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver._place = place = FakePlace(None)
    attempts(driver, monkeypatch, Ended("stopped", "stopped at step 3"), stop_in=0)
    assert driver._drive(None) == STOPPED  # type: ignore[arg-type]  # as above
    assert place.calls == ["begin"]


def test_a_failure_while_making_room_is_a_failure(driver: JobDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver._place = FakePlace(None)
    failure = Failure(cause="worker_lost", message="rank 0 disappeared", rank=0)
    attempts(driver, monkeypatch, failure, Ended("finished", "finished 6 steps"))
    assert driver._drive(None) == SUCCESS  # type: ignore[arg-type]  # as above
    assert driver._policy.used["worker_lost"] == 1


def test_embedded_jobs_have_no_queue(driver: JobDriver) -> None:
    assert isinstance(driver._place, OwnPlace)
    assert (driver._place.phase, driver._place.uses, driver._place.state) == ("placing", None, {})


# ---- what the queue is told of a job


class FakeSeat:
    def __init__(self, answer: Answer | None) -> None:
        self.answer = answer
        self.turns = 0

    def wait_again(self) -> None:
        self.turns += 1


def queued_place(tmp_path: Path, text: str = SPEC) -> QueuedPlace:
    directory = RunDirectory(tmp_path / "runs" / "tiny")
    directory.root.mkdir(parents=True, exist_ok=True)
    directory.update_state(phase="queued", created_at=123.0)
    directory.resolved_spec.write_text(text)
    return QueuedPlace(JobDriver(directory, embedded=True)._spec, directory)


def test_a_job_is_described_with_its_quota_as_it_stands(tmp_path: Path) -> None:
    place = queued_place(tmp_path)
    quotas = tmp_path / "runs" / "queue.yaml"
    request = place._request()
    assert (request.name, request.submitted, request.owner, request.quota) == ("tiny", 123.0, "ann", Quota())
    assert request.account == f"{tmp_path}/runs:ann"
    assert request.preemptible
    quotas.write_text("quotas: {ann: {gpus: 4, cpus: 1.5}}\n")
    assert place._request().quota == Quota(4 * UNIT, 15_000)
    quotas.write_text("quotas: {ann: {gpus: many}}\n")  # somebody edits it: what was read last goes on to count
    assert place._request().quota == Quota(4 * UNIT, 15_000)
    with pytest.raises(module.OrchestratorError, match=r"queue\.yaml:1: quotas\.ann\.gpus"):
        queued_place(tmp_path)._request()


def test_scripts_are_not_asked_to_make_room(tmp_path: Path) -> None:
    place = queued_place(tmp_path, "name: tiny\nscript: {path: train.py}\nqueue: {owner: ann}\n")
    assert not place._request().preemptible


def test_a_place_is_kept_from_attempt_to_attempt_while_it_is_good(tmp_path: Path) -> None:
    good = Answer(uses=(Use("n0", 1),), again_s=1.0)
    bad = [
        Answer(uses=(Use("n0", 1),), again_s=1.0, lost_nodes=("n0",)),
        Answer(uses=None, again_s=1.0),
        Answer(uses=(Use("n0", 1),), again_s=1.0, makes_room_for=queued_place(tmp_path)._request()),
        None,
    ]
    for answer, turns in ((good, 1), *((answer, 2) for answer in bad)):
        place = queued_place(tmp_path)
        place._seat = seat = FakeSeat(answer)  # type: ignore[assignment]
        place.begin()
        place.begin()
        assert seat.turns == turns, answer


def test_the_state_tells_position_or_nodes(tmp_path: Path) -> None:
    place = queued_place(tmp_path, SPEC + "resources: {workers: 3, gpus_per_worker: 1, cpus_per_worker: 2}\n")
    mine = {"priority": 0, "owner": "ann", "workers": 3, "gpus": 3.0, "cpus": 6.0}
    assert place.state == mine
    assert place.waits_for() == "the cluster's queue has not answered yet"
    place._seat = FakeSeat(Answer(uses=None, again_s=1.0, position=4, num_waiting=9, reason="why"))  # type: ignore[assignment]
    assert place.state == {**mine, "position": 4, "waiting": 9}
    assert place.waits_for() == "why"
    uses = (Use("n0", 2), Use("n1", 1))
    place._seat = FakeSeat(Answer(uses=uses, again_s=1.0, num_waiting=8, waited_s=1.23456))  # type: ignore[assignment]
    held = {"position": 0, "waiting": 8, "nodes": {"n0": 2, "n1": 1}, "waited_s": 1.235, "backfilled": False}
    assert place.state == {**mine, **held}
    assert (place.waits_for(), place.uses) == (None, uses)


def test_demands_and_quotas_in_the_queues_units() -> None:
    resources = {"workers": 2, "cpus_per_worker": 0.5, "gpus_per_worker": 1, "placement": "spread"}
    script = ScriptJobSpec.model_validate({"name": "a", "script": {"path": "a.py"}, "resources": resources})
    assert demand_of(script) == Demand(2, UNIT // 2, UNIT, "spread")
    coded = JobSpec.model_validate(
        {
            "name": "a",
            "recipe": {"target": "a.py:A"},
            "train": {"steps": 1},
            "resources": {"workers": 2},
            "exchange": {"name": "coded", "scheme": "uncoded", "shards": 2, "cpus_per_shard": 0},
        }
    )
    assert demand_of(coded) == Demand(2, UNIT, 0, "pack", shards=2, shard_cpu=10)
    assert quota_of(None) == quota_of(OwnerQuota()) == Quota()
    assert quota_of(OwnerQuota(gpus=0)) == Quota(gpu=0)
