"""Jobs on a Ray cluster through the Jobs API: a real cluster with a token, a stand-in driver."""

import multiprocessing
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from launch import ray_client_side as client_side
from launch.breaking_proxy import BreakingProxy
from launch.ray_head import TOKEN, RayHead

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare, prepare_resume
from orchestrator.launch.processes import this_process
from orchestrator.launch.ray_connection import resolve_address
from orchestrator.launch.ray_entrypoint import entrypoint, runtime_environment

NOWHERE = "http://127.0.0.1:9"


def client_process(token: str | None) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=client_side.set_up, initargs=(token,))


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    head = RayHead(python_path=Path(__file__).parent)
    yield head
    head.close()


@pytest.fixture(scope="module")
def client() -> Iterator[ProcessPoolExecutor]:
    with client_process(TOKEN) as pool:
        yield pool


@pytest.fixture
def cluster(head, client):
    """Calls a function of the client's side with the cluster's address."""
    head.wait_until_up()
    return lambda function, *arguments: client.submit(function, head.address, *arguments).result()


@pytest.fixture
def job_on_cluster(cluster, load, storage):
    """Submits a job whose driver behaves like that; returns its run directory and submission id."""

    def submit(behavior: str) -> tuple[RunDirectory, str]:
        prepared = prepare(load(f"env: {{STANDIN: {behavior}}}\n"), storage)
        return prepared.run_directory, cluster(client_side.start, prepared)

    return submit


# ---- without a cluster


def test_precedence_of_the_address():
    environ = {"RAY_API_SERVER_ADDRESS": "http://api:8265", "RAY_ADDRESS": "http://ray:8265"}
    assert resolve_address("http://flag:8265/", environ) == "http://flag:8265"
    assert resolve_address(None, environ) == "http://api:8265"
    assert resolve_address(None, {"RAY_ADDRESS": "https://ray"}) == "https://ray"


@pytest.mark.parametrize(
    ("flag", "environ", "message"),
    [
        (None, {}, r"^--address: which cluster\? Give http://HEAD:8265"),
        ("head:8265", {}, r"^--address: head:8265 is not the dashboard's URL"),
        (None, {"RAY_ADDRESS": "auto"}, "^RAY_ADDRESS: auto is not"),
        (None, {"RAY_ADDRESS": "ray://head:10001"}, "^RAY_ADDRESS: ray://head:10001 is not"),
    ],
)
def test_an_address_that_is_none_is_refused_with_its_source(flag, environ, message):
    with pytest.raises(UsageError, match=message):
        resolve_address(flag, environ)


def test_the_runtime_environment(load):
    spec = load("env: {A: '1', B: null, RAY_JOB_STOP_WAIT_TIME_S: '5'}\n").spec
    assert runtime_environment(spec, {"B": "2", "C": "3"}) == {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "5",
        "A": "1",
        "B": "2",
    }


def test_a_password_is_sent_only_where_the_spec_says_so(load):
    environ = {"MLFLOW_TRACKING_URI": "http://me:hunter2@mlflow:5000"}
    with pytest.raises(UsageError, match=r"^tracking\.uri: .*MLFLOW_TRACKING_URI: null"):
        runtime_environment(load().spec, environ)
    spec = load("env: {MLFLOW_TRACKING_URI: null}\n").spec
    assert runtime_environment(spec, environ)["MLFLOW_TRACKING_URI"] == environ["MLFLOW_TRACKING_URI"]


def run_entrypoint(job: RunDirectory, **environ: str) -> subprocess.CompletedProcess[str]:
    """As Ray runs it: with a shell, in a folder of its own."""
    variables = {"PATH": "/usr/bin:/bin", **environ}
    return subprocess.run(
        entrypoint(job), shell=True, env=variables, capture_output=True, text=True, cwd=job.code, check=False
    )


def test_the_entrypoint_runs_the_driver_and_keeps_its_output(prepared, standin):
    job = prepared.run_directory
    standin("crash")
    ran = run_entrypoint(job, STANDIN="crash", PYTHONPATH=os.environ["PYTHONPATH"])
    assert ran.returncode == 7
    assert f"cwd {job.code}" in ran.stdout
    assert "and an error line" in job.driver_log.read_text()


def test_the_entrypoint_survives_strange_folders(load, tmp_path, standin):
    job = prepare(load(), tmp_path / 'it\'s $HOME; a "folder"').run_directory
    standin("succeed")
    ran = run_entrypoint(job, STANDIN="succeed", PYTHONPATH=os.environ["PYTHONPATH"])
    assert (ran.returncode, job.read_state()["phase"]) == (0, "succeeded"), ran.stderr


def test_the_entrypoint_passes_interrupts_on_and_keeps_the_last_output(prepared, standin, wait_for):
    job = prepared.run_directory
    standin("wait")
    shell = subprocess.Popen(entrypoint(job), shell=True, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: job.read_state()["driver"])
    assert job.read_state()["driver"]["pid"] == shell.pid, "the driver is the process that Ray interrupts"
    os.killpg(shell.pid, 2)
    assert shell.wait() == 3
    wait_for(lambda: "stopping" in job.driver_log.read_text())


def test_the_entrypoint_says_that_the_storage_is_not_shared(tmp_path):
    job = RunDirectory(tmp_path / "elsewhere")
    ran = subprocess.run(entrypoint(job), shell=True, capture_output=True, text=True, check=False)
    assert ran.returncode == 5
    assert f"{job.root} is not there: the storage must be a folder that all nodes share" in ran.stderr


def test_the_entrypoint_says_that_the_package_is_missing(prepared, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    ran = run_entrypoint(prepared.run_directory)
    assert ran.returncode == 5
    assert "orchestrator is not installed" in ran.stderr


def test_a_cluster_that_is_not_there_is_out_of_reach(client):
    assert client.submit(client_side.connect, NOWHERE).result() == (
        f"OutOfReachError: {NOWHERE}: no Ray dashboard answers there: Failed to connect to Ray at address: {NOWHERE}."
    )


def test_a_cluster_that_never_answers_is_out_of_reach(client):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert client.submit(client_side.connect, address).result().startswith(f"OutOfReachError: {address}: no Ray")


def test_a_job_that_cannot_be_submitted_is_marked_and_can_be_resumed(client, prepared):
    error = client.submit(client_side.start_error, NOWHERE, prepared).result()
    assert error.startswith(f"OutOfReachError: {NOWHERE}")
    state = prepared.run_directory.read_state()
    assert (state["phase"], state["reason"]) == ("failed", "submission_failed")
    assert client.submit(client_side.resume, prepared.run_directory.root).result().resumed


def test_a_silent_job_on_a_lost_cluster_is_gone_after_a_while(client, prepared):
    job = prepared.run_directory
    record = {"kind": "ray_jobs", "address": NOWHERE, "submission_id": "tiny-a1"}
    job.update_state(phase="running", backend=record, driver={**this_process(), "host": "elsewhere"})
    assert client.submit(client_side.vitals, job.root).result()[0] == "unknown"
    assert client.submit(client_side.reconcile, job.root).result()["phase"] == "running"
    long_ago = time.time() - 3600
    for file in (job.state_file, job.events_file):
        os.utime(file, (long_ago, long_ago))
    state = client.submit(client_side.reconcile, job.root).result()
    assert (state["phase"], state["reason"]) == ("failed", "driver_lost")
    assert "has written nothing for 60 minutes" in state["message"]


def test_a_resumed_job_that_is_not_submitted_yet_lives_with_its_submitter(client, prepared):
    job = prepared.run_directory
    job.update_state(
        phase="stopped", backend={"kind": "ray_jobs", "address": NOWHERE, "submission_id": "tiny-a1"}, submissions=1
    )
    again = prepare_resume(job)
    assert job.read_state()["backend"] == {"kind": "ray_jobs", "address": NOWHERE, "submission_id": None}
    assert client.submit(client_side.vitals, again.run_directory.root).result()[0] == "alive"
    assert client.submit(client_side.stop, job.root, 0).result()["phase"] == "queued"
    assert job.stop_file.exists()
    assert client.submit(client_side.logs, job.root, None, follow=False).result() == ""


# ---- with one


@pytest.mark.ray
def test_a_cluster_that_wants_a_token_says_so(head):
    head.wait_until_up()
    with client_process(None) as stranger:
        error = stranger.submit(client_side.connect, head.address).result()
    assert error.startswith(f"OutOfReachError: {head.address}: the Ray cluster asks for a token; set RAY_AUTH_MODE=")


@pytest.mark.ray
def test_a_job_succeeds_on_a_cluster(job_on_cluster, cluster, client):
    job, submission_id = job_on_cluster("succeed")
    assert submission_id.startswith("tiny-a1")
    text = client.submit(client_side.logs, job.root, None, follow=True).result()
    assert "behavior succeed" in text
    assert job.read_state()["phase"] == "succeeded"
    assert cluster(client_side.status, submission_id) == "SUCCEEDED"
    assert cluster(client_side.status, "unheard-of") == "UNKNOWN"
    assert "behavior succeed" in job.driver_log.read_text()


@pytest.mark.ray
def test_a_job_stops_with_its_last_word_and_resumes_under_a_new_id(job_on_cluster, cluster, client, wait_for):
    job, submission_id = job_on_cluster("wait")
    wait_for(lambda: job.read_state()["driver"])
    assert client.submit(client_side.vitals, job.root).result()[0] == "alive"
    state = client.submit(client_side.stop, job.root, 60).result()
    assert (state["phase"], state["reason"]) == ("stopped", "stop_requested")
    wait_for(lambda: cluster(client_side.status, submission_id) == "STOPPED")
    again = client.submit(client_side.resume, job.root).result()
    assert cluster(client_side.start, again).startswith("tiny-a")
    assert job.read_state()["submissions"] == 2
    wait_for(lambda: job.read_state()["driver"])
    assert client.submit(client_side.stop, job.root, 60).result()["phase"] == "stopped"


@pytest.mark.ray
def test_a_driver_that_dies_on_a_cluster_is_noticed(job_on_cluster, client, wait_for):
    job, submission_id = job_on_cluster("crash")
    wait_for(lambda: client.submit(client_side.reconcile, job.root).result()["phase"] == "failed")
    state = job.read_state()
    assert state["reason"] == "driver_lost"
    assert f"Ray job {submission_id} ended as FAILED without a last word of the driver: and an err" in state["message"]


@pytest.mark.ray
def test_a_job_on_its_way_to_the_cluster_is_not_lost(head, client, prepared):
    job = prepared.run_directory
    head.wait_until_up()
    record = {"kind": "ray_jobs", "address": head.address, "submission_id": "on-its-way"}
    job.update_state(backend=record)
    assert client.submit(client_side.reconcile, job.root).result()["phase"] == "queued"
    job.update_state(driver={**this_process(), "host": "elsewhere"})
    state = client.submit(client_side.reconcile, job.root).result()
    assert f"the cluster at {head.address} does not know Ray job on-its-way any more" in state["message"]


@pytest.mark.ray
def test_a_driver_that_ray_killed_after_its_grace_was_stopped(client, wait_for, load, storage, cluster):
    prepared = prepare(load("env: {STANDIN: hang, RAY_JOB_STOP_WAIT_TIME_S: '1'}\n"), storage)
    cluster(client_side.start, prepared)
    wait_for(lambda: prepared.run_directory.read_state()["driver"])
    state = client.submit(client_side.stop, prepared.run_directory.root, 60).result()
    assert (state["phase"], state["reason"]) == ("stopped", "driver_lost")


@pytest.mark.ray
def test_a_log_is_told_once_though_connections_break(head, client, load, storage, cluster):
    prepared = prepare(load("env: {STANDIN: chatter}\n"), storage)
    cluster(client_side.start, prepared)
    proxy = BreakingProxy(urlsplit(head.address).port, cut_after=3000, num_cuts=2)
    text = client.submit(client_side.logs, prepared.run_directory.root, proxy.address, follow=True).result()
    proxy.close()
    assert proxy.cuts_left == 0
    told = [line for line in text.splitlines() if line.startswith("line ")]
    assert told == [f"line {number} of many" for number in range(1000)]


def test_the_entrypoint_quotes_its_script(prepared):
    words = shlex.split(entrypoint(prepared.run_directory))
    assert words[:3] == ["exec", "bash", "-c"]
    assert len(words) == 4
