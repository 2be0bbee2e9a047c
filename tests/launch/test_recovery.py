"""Which jobs a lost cluster has left behind, in which order they go on, and that none of them goes on twice."""

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from orchestrator.core.errors import OutOfReachError, UsageError
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.launch import recovery
from orchestrator.launch.control import reconcile
from orchestrator.launch.prepare import PreparedJob, prepare, prepare_resume
from orchestrator.launch.processes import this_process
from orchestrator.launch.ray_jobs import RayJobs
from orchestrator.launch.recovery import RECENT_S, Action, Case, Clusters, resubmit, survey

OLD, NEW = "http://127.0.0.1:9", "http://127.0.0.1:10"
ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": 0.0}


class NewCluster:
    """Takes jobs as ``RayJobs.start`` does, and starts nothing."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.taken: list[str] = []
        self.refuses = refuses

    def start(self, prepared: PreparedJob, environ: Any) -> str:
        run = prepared.run_directory
        number = run.read_state()["submissions"] + 1
        submission_id = f"{run.name}-a{number}"
        run.update_state(
            backend={"kind": "ray_jobs", "address": NEW, "submission_id": submission_id}, submissions=number
        )
        if self.refuses:
            run.update_state(phase="failed", reason="submission_failed", message="it is full", finished_at=time.time())
            raise OutOfReachError("it is full")
        self.taken.append(run.name)
        return submission_id


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch) -> None:
    """The clusters of these tests are gone."""

    def connect(cluster: RayJobs) -> None:
        raise OutOfReachError(f"{cluster.address}: no Ray dashboard answers there.")

    monkeypatch.setattr(RayJobs, "connect", connect)
    monkeypatch.setattr(RayJobs, "_status_and_reason", lambda cluster, submission_id: connect(cluster))


@pytest.fixture(scope="module")
def dead() -> dict[str, Any]:
    """The record of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return {**this_process(), "pid": child.pid}


@pytest.fixture
def job(load, storage, dead) -> Callable[..., RunDirectory]:
    """Makes a job of the old cluster that was running when its driver died; fields of the state may be others."""

    def make(name: str, *, priority: int = 0, **state: Any) -> RunDirectory:
        loaded = load("", [f"name={name}", f"queue.priority={priority}"])
        run = prepare(loaded, storage).run_directory
        backend = {"kind": "ray_jobs", "address": OLD, "submission_id": f"{name}-a1"}
        run.update_state(**{"phase": "running", "backend": backend, "driver": dead, "submissions": 1, **state})
        return run

    return make


def look(storage, **options: Any) -> dict[str, Case]:
    return {case.run.name: case for case in survey(storage, Clusters(), **options)}


def test_what_was_running_is_resubmitted_by_priority_and_age(job, storage):
    for name, priority, age in (("young", 0, 1), ("urgent", 5, 2), ("old", 0, 3)):
        job(name, priority=priority, created_at=time.time() - age * 3600)
    before = {run: run.read_bytes() for run in storage.glob("*/state.json")}
    cases = survey(storage, Clusters())
    assert [(case.run.name, case.action) for case in cases] == [
        ("urgent", Action.RESUBMIT),
        ("old", Action.RESUBMIT),
        ("young", Action.RESUBMIT),
    ]
    assert {run: run.read_bytes() for run in storage.glob("*/state.json")} == before, "a survey only looks"
    cluster = NewCluster()
    assert [resubmit(case, cluster).submission_id for case in cases] == ["urgent-a2", "old-a2", "young-a2"]
    assert cluster.taken == ["urgent", "old", "young"]


@pytest.mark.parametrize("phase", ["queued", "preparing", "placing", "running"])
def test_a_job_goes_on_from_every_phase_with_its_history(phase, job, dead):
    run = job("tiny", phase=phase, mlflow_run_id=None, attempts=3, created_at=1000.0)
    (case,) = survey(run.root.parent, Clusters())
    pid, host = dead["pid"], dead["host"]
    assert case.why == f"{OLD}: no Ray dashboard answers there, and its driver (pid {pid} on {host}) has ended"
    assert resubmit(case, NewCluster()).action is Action.RESUBMITTED
    state = run.read_state()
    assert (state["phase"], state["attempts"], state["created_at"], state["submissions"]) == ("queued", 3, 1000.0, 2)
    assert [event["event"] for event in read_json_lines(run.events_file)] == ["queued", "driver_lost", "queued"]


def test_a_job_that_was_found_lost_meanwhile_goes_on_too(job, storage):
    now = time.time()
    lost = {"phase": "failed", "reason": "driver_lost", "message": "its head died; `orchestrator resume x` continues."}
    job("today", **lost, finished_at=now - 60)
    job("long-ago", **lost, finished_at=now - RECENT_S - 60)
    asked_to_stop = job("unwanted", **lost, finished_at=now - 60)
    asked_to_stop.stop_file.touch()
    job("own-fault", phase="failed", reason="user_error", message="Tiny.loss raised", finished_at=now)
    cases = look(storage)
    assert {name: case.action for name, case in cases.items()} == {
        "today": Action.RESUBMIT,
        "long-ago": Action.LEAVE,
        "unwanted": Action.LEAVE,
    }
    assert cases["today"].why == "its head died"
    assert cases["long-ago"].why == "it was found lost 7 days ago; `orchestrator recover long-ago` resubmits it"
    named = look(storage, names=["long-ago", "own-fault"])
    assert {name: case.action for name, case in named.items()} == {
        "long-ago": Action.RESUBMIT,
        "own-fault": Action.LEAVE,
    }


def test_a_job_that_lives_is_left_alone(job, storage):
    job("tiny", driver=this_process())
    case = look(storage, lost=[OLD])["tiny"]
    assert (case.action, "still runs" in case.why) == (Action.LEAVE, True)


def test_a_job_that_may_live_is_left_alone_until_somebody_knows_better(job, storage):
    job("tiny", driver=ELSEWHERE)
    case = look(storage)["tiny"]
    assert case.action is Action.UNDECIDED
    assert case.why.endswith(f"it counts as lost after 10 silent minutes, or at once with --lost {OLD}")
    cluster = NewCluster()
    assert resubmit(case, cluster) is case
    assert look(storage, lost=[NEW])["tiny"].action is Action.UNDECIDED
    assert resubmit(look(storage, lost=[OLD])["tiny"], cluster).action is Action.RESUBMITTED


def test_a_dead_local_job_is_told_and_goes_on_only_where_asked(job, storage):
    job("here", backend={"kind": "local"})
    case = look(storage)["here"]
    assert case.action is Action.LOCAL
    assert "`orchestrator resume here` continues it here, --local hands it to the cluster" in case.why
    assert resubmit(look(storage, with_local=True)["here"], NewCluster()).action is Action.RESUBMITTED


def test_a_job_that_was_to_stop_is_closed(job, storage):
    run = job("tiny")
    run.stop_file.touch()
    cluster = NewCluster()
    assert resubmit(look(storage)["tiny"], cluster).action is Action.CLOSED
    assert (run.read_state()["phase"], cluster.taken) == ("stopped", [])


def test_recoveries_at_once_start_one_driver(job, storage, monkeypatch):
    """All of them have found the job lost before the first one continues it."""
    run = job("tiny")
    (case,) = survey(storage, Clusters())
    cluster, all_found = NewCluster(), Barrier(8)

    def prepare_together(run: RunDirectory, **options: Any) -> PreparedJob:
        all_found.wait()
        return prepare_resume(run, **options)

    monkeypatch.setattr(recovery, "prepare_resume", prepare_together)
    with ThreadPoolExecutor(8) as pool:
        actions = sorted(pool.map(lambda _: resubmit(case, cluster).action.value, range(8)))
    assert actions == [*["left alone"] * 7, "resubmitted"]
    assert (cluster.taken, run.read_state()["submissions"]) == (["tiny"], 2)


def test_a_job_that_somebody_has_closed_since_the_survey_goes_on(job, storage):
    """As `orchestrator list` does beside a recovery."""
    run = job("tiny")
    (case,) = survey(storage, Clusters())
    assert reconcile(run)["reason"] == "driver_lost"
    assert resubmit(case, NewCluster()).action is Action.RESUBMITTED


def test_a_job_that_moved_since_the_survey_is_left_alone(job, storage):
    run = job("tiny")
    (case,) = survey(storage, Clusters())
    run.update_state(step=7)
    cluster = NewCluster()
    assert resubmit(case, cluster).why == "something else has taken it up in the meantime"
    assert (run.read_state()["phase"], cluster.taken) == ("running", [])


def test_a_job_that_the_cluster_does_not_take_is_taken_up_again(job, storage):
    run = job("tiny")
    failed = resubmit(look(storage)["tiny"], NewCluster(refuses=True))
    assert (failed.action, failed.why) == (Action.FAILED, "it is full")
    assert (run.read_state()["phase"], run.read_state()["reason"]) == ("failed", "driver_lost")
    assert resubmit(look(storage)["tiny"], NewCluster()).action is Action.RESUBMITTED


def test_one_that_cannot_go_on_does_not_stop_the_others(job, storage, load, dead, monkeypatch):
    monkeypatch.setenv("WANTED", "x")
    run = prepare(load("env: {WANTED: null}\n", ["name=needy"]), storage).run_directory
    run.update_state(phase="running", backend={"kind": "ray_jobs", "address": OLD, "submission_id": "a"}, driver=dead)
    monkeypatch.delenv("WANTED")
    job("other")
    broken = job("broken")
    broken.state_file.write_text("{")
    cluster = NewCluster()
    done = {case.run.name: resubmit(case, cluster) for case in survey(storage, Clusters())}
    assert {name: case.action for name, case in done.items()} == {
        "needy": Action.FAILED,
        "other": Action.RESUBMITTED,
        "broken": Action.FAILED,
    }
    assert "export WANTED" in done["needy"].why
    assert "its record cannot be read" in done["broken"].why
    assert run.read_state()["reason"] == "driver_lost"


def test_each_cluster_is_asked_once_whether_it_answers(job, storage, monkeypatch):
    asked: list[str] = []

    def connect(cluster: RayJobs) -> None:
        asked.append(cluster.address)
        raise OutOfReachError("no")

    monkeypatch.setattr(RayJobs, "connect", connect)
    for name in ("one", "two", "three"):
        job(name, driver=ELSEWHERE)
    look(storage)
    assert asked == [OLD]


def test_an_unknown_name_is_an_error(job, storage):
    job("tiny")
    with pytest.raises(UsageError, match="did you mean tiny"):
        survey(storage, Clusters(), names=["tinny"])
