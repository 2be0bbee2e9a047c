"""Which jobs continue, and what may differ."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from launch.conftest import RECIPE

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import read_json_lines
from orchestrator.launch import continuation
from orchestrator.launch.continuation import MAY_CHANGE, differing_paths
from orchestrator.launch.prepare import prepare, prepare_resume
from orchestrator.launch.processes import this_process
from orchestrator.spec.load import load_resolved, spec_hash
from orchestrator.spec.problems import SpecError


@pytest.fixture
def stopped(prepared):
    job = prepared.run_directory
    job.update_state(phase="stopped", step=7, attempts=1, mlflow_run_id="abc", driver=dead_process(), reason="asked")
    return job


def dead_process() -> dict[str, object]:
    """The record of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    record = {**this_process(), "pid": child.pid}
    child.wait()
    return record


def test_a_stopped_job_is_queued_again_with_its_history(stopped):
    stopped.stop_file.touch()
    prepared = prepare_resume(stopped)
    state = stopped.read_state()
    assert prepared.resumed
    assert (state["phase"], state["step"], state["attempts"], state["mlflow_run_id"]) == ("queued", 7, 1, "abc")
    assert (state["driver"], state["reason"], state["submitter"]["pid"]) == (None, None, os.getpid())
    assert not stopped.stop_file.exists()
    assert [event["event"] for event in read_json_lines(stopped.events_file)] == ["queued", "queued"]


def test_resources_may_change_and_are_written_down(stopped):
    prepared = prepare_resume(stopped, ["resources.workers=3", "checkpoint.every=5", "retries.user_error=1"])
    assert prepared.spec.resources.workers == 3
    assert load_resolved(stopped.resolved_spec) == prepared.spec


@pytest.mark.parametrize(
    ("workers", "expected"), [("{min: 1, max: 3}", "1 to 3"), ("{min: 2, max: 8}", "2 to 8"), ("4", "4")]
)
def test_a_range_of_workers_may_become_another_or_a_number(workers, expected, stopped):
    prepare_resume(stopped, ["resources.workers={min: 1, max: 4}"])
    stopped.update_state(phase="stopped")
    prepared = prepare_resume(stopped, [f"resources.workers={workers}"])
    assert load_resolved(stopped.resolved_spec) == prepared.spec
    assert str(prepared.spec.resources.workers) == expected


@pytest.mark.parametrize(
    "override",
    ["train.steps=9", "batch.global_size=64", "optimizer.lr=0.5", "name=other", "then=[{train: {steps: 1}}]"],
)
def test_the_training_may_not_change(override, stopped):
    before = stopped.resolved_spec.read_text()
    with pytest.raises(UsageError, match=rf"^--set: {override.partition('=')[0]} would change the training"):
        prepare_resume(stopped, [override, "resources.workers=2"])
    assert stopped.resolved_spec.read_text() == before
    assert stopped.read_state()["phase"] == "stopped"


def test_phases_may_not_change_either(load, storage):
    job = prepare(load("then: [{train: {steps: 4}, batch: {micro_size: 2}}]\n"), storage).run_directory
    job.update_state(phase="stopped", driver=dead_process())
    for override in ("then.0.train.steps=5", "then.0.batch.micro_size=4", "then=[]"):
        with pytest.raises(UsageError, match=r"^--set: then would change the training"):
            prepare_resume(job, [override])
    # What may change must still suit every phase.
    with pytest.raises(SpecError, match=r"batch\.global_size = 128: 128 / 200 workers"):
        prepare_resume(job, ["resources.workers=200"])
    assert prepare_resume(job, ["resources.workers=2"]).spec.resources.workers == 2


def test_what_may_change_is_not_part_of_the_training(load):
    """The checkpoints of a job belong to the hash of its spec, so nothing in the hash may change."""
    coded, sweep = "exchange={name: coded, scheme: uncoded}", "sweep={train.seed: [0, 1]}"
    changed = {
        "engine": ["engine=fsdp2"],
        "exchange.bucket_mib": ["exchange.bucket_mib=1.0"],
        "exchange.worker_timeout_s": [coded, "exchange.worker_timeout_s=5"],
        "train.activation_checkpointing": ["train.activation_checkpointing.policy=selective"],
        "train.compile": ["train.compile=eager"],
        "resources": ["resources.workers=2", "resources.cpus_per_worker=0.5", "resources.placement=spread"],
        "checkpoint": ["checkpoint.every=1", "checkpoint.keep=1"],
        "retries": ["retries.worker_lost=1"],
        "queue": ["queue.timeout_s=1.0"],
        "tracking.system_metrics_every_s": ["tracking.system_metrics_every_s=1.0"],
        "train.log_every": ["train.log_every=5"],
        "data.loader_workers": ["data.loader_workers=1"],
        "data.prefetch": ["data.prefetch=4"],
        "optimizer.implementation": ["optimizer.implementation=eager"],
        "optimizer.log_layers_every": ["optimizer.log_layers_every=5"],
        "trials.concurrent": [sweep, "trials.concurrent=2"],
    }
    assert set(changed) == set(MAY_CHANGE)
    for overrides in changed.values():
        before = load("optimizer: lamb\n", tuple(override for override in overrides if override in (coded, sweep))).spec
        assert spec_hash(load("optimizer: lamb\n", tuple(overrides)).spec) == spec_hash(before)


def test_an_illegal_override_names_itself(stopped):
    with pytest.raises(SpecError, match=r"--set: resources\.workers = 0: "):
        prepare_resume(stopped, ["resources.workers=0"])
    with pytest.raises(SpecError, match="each needs at least 1"):
        prepare_resume(stopped, ["resources.workers=1000"])


def test_a_job_that_succeeded_has_nothing_to_resume(stopped):
    stopped.update_state(phase="succeeded")
    with pytest.raises(UsageError, match="tiny has succeeded; there is nothing to resume"):
        prepare_resume(stopped)


def test_a_job_that_runs_is_not_resumed(stopped):
    stopped.update_state(phase="running", driver=this_process())
    with pytest.raises(UsageError, match=rf"tiny is running: its driver \(pid {os.getpid()} .*orchestrator stop tiny"):
        prepare_resume(stopped)


def test_a_job_on_another_host_is_not_resumed(stopped):
    stopped.update_state(phase="running", driver={**this_process(), "host": "elsewhere"})
    with pytest.raises(UsageError, match=r"not known.* on elsewhere.* cannot be seen from this host"):
        prepare_resume(stopped)


def test_a_driver_that_still_sends_its_last_metrics_is_waited_for(stopped, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        record = {**this_process(), "pid": child.pid, "started": psutil.Process(child.pid).create_time()}
        stopped.update_state(driver=record)
        with monkeypatch.context() as patch:
            patch.setattr(continuation, "LAST_DRIVER_TIMEOUT_S", 0.0)
            with pytest.raises(UsageError, match=rf"tiny is stopped, but its driver .*{child.pid}.* runs; try again"):
                prepare_resume(stopped)
        timer = threading.Timer(0.3, child.communicate, [b"\n"])
        timer.start()
        assert prepare_resume(stopped).resumed
        timer.join()


def test_a_lost_job_is_closed_and_resumed(stopped):
    stopped.update_state(phase="running", driver=dead_process(), mlflow_run_id=None)
    assert prepare_resume(stopped).resumed
    assert [event["event"] for event in read_json_lines(stopped.events_file)] == ["queued", "driver_lost", "queued"]


def test_of_many_who_resume_one_does(stopped):
    def attempt(_: int) -> bool:
        try:
            prepare_resume(stopped)
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_null_values_of_the_environment_are_needed_again(load, storage):
    job = prepare(load("env: {HF_TOKEN: null}\n"), storage, environ={"HF_TOKEN": "x"}).run_directory
    job.update_state(phase="failed")
    with pytest.raises(UsageError, match=r"^env\.HF_TOKEN"):
        prepare_resume(job, environ={})
    assert job.read_state()["phase"] == "failed"


def test_resume_by_spec_starts_a_job_that_is_not_there(load, storage):
    assert not prepare(load(), storage, resume=True).resumed


def test_resume_by_the_same_spec(load, storage, stopped):
    prepared = prepare(load("resources: {workers: 2}\n"), storage, resume=True)
    assert prepared.resumed
    assert load_resolved(stopped.resolved_spec).resources.workers == 2


def test_resume_by_spec_stays_with_its_history(load, storage, stopped, tmp_path):
    uri = load_resolved(stopped.resolved_spec).tracking.uri
    elsewhere = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/elsewhere.db"}
    assert prepare(load(), storage, resume=True, environ=elsewhere).spec.tracking.uri == uri


def test_resume_by_another_spec_lists_what_differs(load, storage, stopped):
    loaded = load("batch: {global_size: 64}\noptimizer: {name: sgd, momentum: 0.9}\n", recipe=RECIPE + "# changed\n")
    (loaded.folder / "helper.py").write_text("")
    (loaded.folder / "notes.txt").write_text("not code")
    with pytest.raises(UsageError) as caught:
        prepare(loaded, storage, resume=True)
    message = str(caught.value)
    for part in ("batch.global_size", "optimizer.name", "optimizer.momentum", "recipe.py", "helper.py", "resume tiny"):
        assert part in message
    assert "notes.txt" not in message
    assert stopped.read_state()["phase"] == "stopped"


def test_differing_paths_are_leaves(load):
    one, other = load().spec, load("tracking: {tags: {a: b}}\nenv: {X: '1'}\n", ("optimizer.betas=[0.8, 0.9]",)).spec
    assert differing_paths(one, other) == ["optimizer.betas", "tracking.tags.a", "env.X"]
