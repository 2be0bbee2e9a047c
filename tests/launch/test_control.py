"""Stopping jobs, and closing the record of those whose driver is gone. Real processes, a real MLflow database."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.launch import control, lost
from orchestrator.launch.control import reconcile, stop
from orchestrator.launch.local import LocalBackend
from orchestrator.launch.processes import Liveness, liveness, this_process
from orchestrator.tracking.client import open_client
from orchestrator.tracking.metrics_file import encode_line
from orchestrator.tracking.run import open_run


@pytest.fixture
def job(prepared):
    return prepared.run_directory


@pytest.fixture
def sleeper():
    """A process that lives until the test ends."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield child
        child.kill()


def record_of(process: subprocess.Popen[bytes]) -> dict[str, object]:
    return {**this_process(), "pid": process.pid, "started": psutil.Process(process.pid).create_time()}


def ended(process: subprocess.Popen[bytes]) -> dict[str, object]:
    record = record_of(process)
    process.kill()
    process.wait()
    return record


def events(job: RunDirectory) -> list[str]:
    return [event["event"] for event in read_json_lines(job.events_file)]


def test_a_process_is_known_by_its_number_and_its_start(sleeper):
    record = record_of(sleeper)
    assert liveness(record, "nothing") is Liveness.ALIVE
    reused = {**record, "started": record["started"] - 60}
    assert liveness(reused, "nothing") is Liveness.GONE
    assert liveness(reused, "input()") is Liveness.ALIVE, "the clock was set, but the command line is the job's"
    assert liveness({**record, "host": "elsewhere"}, "nothing") is Liveness.UNKNOWN
    assert liveness(None, "nothing") is Liveness.UNKNOWN


def test_a_process_that_nobody_waited_for_is_gone():
    child = subprocess.Popen([sys.executable, "-c", ""])
    record = record_of(child)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert liveness(record, "nothing") is Liveness.GONE
    child.wait()


def test_a_live_job_is_not_touched(job, sleeper):
    job.update_state(phase="running", driver=record_of(sleeper))
    before = job.state_file.read_bytes()
    assert reconcile(job)["phase"] == "running"
    assert job.state_file.read_bytes() == before


def test_a_job_on_another_host_is_not_touched(job):
    job.update_state(phase="running", driver={"host": "elsewhere", "pid": 1, "started": 0.0})
    assert reconcile(job)["phase"] == "running"


def test_a_queued_job_lives_as_long_as_its_submitter(job, sleeper):
    assert reconcile(job)["phase"] == "queued"
    job.update_state(submitter=ended(sleeper))
    state = reconcile(job)
    assert (state["phase"], state["reason"]) == ("failed", "driver_lost")
    assert "its submitter (pid" in state["message"]


def test_a_lost_job_is_closed_once_with_its_mlflow_run(job, sleeper, tmp_path):
    uri = f"sqlite:///{tmp_path}/history.db"
    run_id = open_run(uri, "tests", "tiny", {}, {})
    job.update_state(phase="running", driver=ended(sleeper), mlflow_run_id=run_id, tracking_uri=uri)
    state = reconcile(job)
    assert (state["phase"], state["reason"]) == ("failed", "driver_lost")
    assert f"pid {sleeper.pid}" in state["message"]
    assert "`orchestrator resume tiny`" in state["message"]
    assert state["finished_at"] > state["created_at"]
    assert open_client(uri).get_run(run_id).info.status == "FAILED"
    assert reconcile(job) == state
    assert events(job) == ["queued", "driver_lost"]


def test_many_readers_close_a_lost_job_once(job, sleeper):
    job.update_state(phase="running", driver=ended(sleeper))
    with ThreadPoolExecutor(8) as pool:
        phases = {state["phase"] for state in pool.map(lambda _: reconcile(job), range(16))}
    assert phases == {"failed"}
    assert events(job) == ["queued", "driver_lost"]


def test_an_absent_mlflow_does_not_keep_a_job_open(job, sleeper):
    uri = "http://127.0.0.1:9"
    job.update_state(phase="running", driver=ended(sleeper), mlflow_run_id="abc", tracking_uri=uri)
    assert reconcile(job)["phase"] == "failed"
    assert events(job) == ["queued", "driver_lost", "tracking_out_of_reach"]


def test_the_last_word_of_the_driver_stands(job, sleeper, monkeypatch):
    """The driver ends between the first reading and the look at its process: it was no loss."""
    job.update_state(phase="running", driver=ended(sleeper))
    look = control.vitals_of

    def look_late(run_directory, state):
        job.update_state(phase="succeeded")
        return look(run_directory, state)

    monkeypatch.setattr(control, "vitals_of", look_late)
    assert reconcile(job)["phase"] == "succeeded"


def test_a_job_that_has_ended_is_only_read(job, sleeper):
    job.update_state(phase="stopped", driver=ended(sleeper))
    before = job.state_file.read_bytes()
    assert reconcile(job)["phase"] == stop(job, 0)["phase"] == "stopped"
    assert job.state_file.read_bytes() == before


def test_a_backend_of_a_later_version_is_named(job):
    job.update_state(phase="running", backend={"kind": "slurm"})
    with pytest.raises(UsageError, match=r"'slurm' in state\.json is not known here; one of local, ray_jobs"):
        reconcile(job)


def test_stop_interrupts_the_driver_and_waits(prepared, job, standin, wait_for):
    standin("wait")
    with LocalBackend().start(prepared) as driver:
        wait_for(lambda: job.read_state()["driver"])
        state = stop(job, 60)
        assert (state["phase"], state["reason"]) == ("stopped", "stop_requested")
        assert driver.wait() == 3
    assert "stop_requested" in events(job)
    assert not job.stop_file.exists()


def test_stop_gives_up_after_its_time(prepared, job, standin, wait_for):
    standin("hang")
    with LocalBackend().start(prepared):
        wait_for(lambda: job.read_state()["driver"])
        assert stop(job, 0.5)["phase"] == "running"


def test_stop_leaves_a_file_for_a_driver_elsewhere(job):
    job.update_state(phase="running", driver={"host": "elsewhere", "pid": os.getpid(), "started": 0.0})
    assert stop(job, 0)["phase"] == "running"
    assert job.stop_file.exists()


def test_stop_notices_a_driver_that_dies_of_it(job, sleeper, monkeypatch):
    monkeypatch.setattr(control, "RECONCILE_INTERVAL_S", 0.0)
    reaper = threading.Thread(target=sleeper.wait)
    job.update_state(phase="running", driver=record_of(sleeper))
    reaper.start()
    assert stop(job, 60)["reason"] == "driver_lost"
    reaper.join()


def test_a_storage_that_is_only_readable_is_only_read(job, sleeper, monkeypatch):
    job.update_state(phase="running", driver=ended(sleeper))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert reconcile(job)["phase"] == "running"


def test_a_run_that_mlflow_could_not_end_is_ended_when_it_answers(job, sleeper, tmp_path, monkeypatch):
    """The server is away when the driver dies; later somebody looks at the job."""
    uri, away = f"sqlite:///{tmp_path}/history.db", "http://127.0.0.1:9"
    run_id = open_run(uri, "tests", "tiny", {}, {})
    job.update_state(phase="running", driver=ended(sleeper), mlflow_run_id=run_id, tracking_uri=away)
    job.metrics_file.write_bytes(b"".join(encode_line(step, 0.0, {"loss": 1 / step}) for step in (1, 2, 3)))
    state = reconcile(job)
    assert open_client(uri).get_run(run_id).info.status == "RUNNING"
    job.update_state(tracking_uri=uri)
    assert reconcile(job)["mlflow_open_since"] == state["mlflow_open_since"], "not asked again at once"
    monkeypatch.setattr(lost, "TRY_AGAIN_S", -1.0)
    assert reconcile(job)["mlflow_open_since"] is None
    found = open_client(uri).get_run(run_id).info
    assert (found.status, found.end_time) == ("FAILED", int(state["finished_at"] * 1000))
    assert [point.step for point in open_client(uri).get_metric_history(run_id, "loss")] == [1, 2, 3]
    before = job.state_file.read_bytes()
    assert reconcile(job)["phase"] == "failed"
    assert job.state_file.read_bytes() == before, "once it is ended the job is only read"


def test_a_run_that_was_deleted_is_not_asked_for_again(job, sleeper, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/history.db"
    open_run(uri, "tests", "tiny", {}, {})
    job.update_state(phase="running", driver=ended(sleeper), mlflow_run_id="0" * 32, tracking_uri=uri)
    assert reconcile(job)["mlflow_open_since"] is None
    assert events(job) == ["queued", "driver_lost", "tracking_out_of_reach"]
