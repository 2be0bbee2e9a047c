"""From a spec to a run directory, whole or not at all."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.core.errors import OutOfReachError, UsageError
from orchestrator.core.run_directory import read_json_lines
from orchestrator.launch import prepare as prepare_module
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_resolved, spec_hash


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_run_directory_is_complete(load, storage):
    loaded = load("batch: {global_size: 64}\n", ("train.steps=5",))
    prepared = prepare(loaded, storage)
    job = prepared.run_directory
    assert names_in(storage) == ["tiny"]
    assert names_in(job.root) == ["code", "events.jsonl", "job.yaml", "logs", "resolved.yaml", "state.json"]
    assert job.submitted_spec.read_text() == loaded.submitted_text
    assert names_in(job.code) == ["recipe.py", "spec.yaml"]
    assert load_resolved(job.resolved_spec) == prepared.spec
    assert prepared.spec.train.steps == 5
    assert (prepared.resumed, prepared.warnings) == (False, ())
    state = job.read_state()
    assert (state["phase"], state["attempts"], state["spec_hash"]) == ("queued", 0, spec_hash(loaded.spec))
    assert state["submitter"]["pid"] == os.getpid()
    assert state["tracking_uri"] == f"sqlite:///{storage / 'mlflow.db'}"
    assert [event["event"] for event in read_json_lines(job.events_file)] == ["queued"]


def test_others_may_read_the_run_directory(load, storage):
    mask = os.umask(0o022)
    try:
        job = prepare(load(), storage).run_directory
    finally:
        os.umask(mask)
    assert job.root.stat().st_mode & 0o777 == 0o755


def test_the_resolved_spec_names_the_tracking_server(load, storage):
    environ = {"MLFLOW_TRACKING_URI": "sqlite:///history.db"}
    assert prepare(load(), storage, environ=environ).spec.tracking.uri == f"sqlite:///{Path.cwd() / 'history.db'}"


def test_a_variable_under_env_decides_where_the_history_goes(load, storage, tmp_path):
    loaded = load(f"env: {{MLFLOW_TRACKING_URI: 'sqlite:///{tmp_path}/own.db'}}\n")
    environ = {"MLFLOW_TRACKING_URI": "sqlite:///shell.db"}
    assert prepare(loaded, storage, environ=environ).run_directory.read_state()["tracking_uri"].endswith("/own.db")


def test_a_password_is_never_written_down(load, storage):
    with socket.create_server(("127.0.0.1", 0)) as database:
        uri = f"postgresql://me:hunter2@127.0.0.1:{database.getsockname()[1]}/history"
        job = prepare(load(), storage, environ={"MLFLOW_TRACKING_URI": uri}).run_directory
    assert job.read_state()["tracking_uri"] is None
    for path in job.root.rglob("*"):
        assert path.is_dir() or "hunter2" not in path.read_text()


def test_a_taken_name_is_refused(load, storage):
    prepare(load(), storage)
    with pytest.raises(UsageError, match=r"^name: job tiny exists in .* \(phase queued\).*`orchestrator resume tiny`"):
        prepare(load(), storage)
    assert names_in(storage) == ["tiny"]


def test_new_name_takes_the_next_free_one(load, storage):
    names = [prepare(load(), storage, new_name=True).run_directory.name for _ in range(3)]
    assert names == ["tiny", "tiny-2", "tiny-3"]
    third = prepare(load(), storage, new_name=True)
    assert load_resolved(third.run_directory.resolved_spec).name == third.spec.name == "tiny-4"
    assert len(list(read_json_lines(third.run_directory.events_file))) == 1


def test_many_submitters_with_new_names_get_one_each(load, storage):
    loaded = load()
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: prepare(loaded, storage, new_name=True), range(16)))
    assert sorted(job.spec.name for job in jobs) == sorted(names_in(storage))
    assert len({job.spec.name for job in jobs}) == 16
    assert all(load_resolved(job.run_directory.resolved_spec).name == job.run_directory.name for job in jobs)


@pytest.mark.parametrize("step", ["copy_into", "dump_resolved", "spec_hash", "this_process"])
def test_a_failure_half_way_leaves_nothing(step, load, storage, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(prepare_module, step, fail)
    with pytest.raises(OSError, match="full"):
        prepare(load(), storage)
    assert names_in(storage) == []


def test_all_problems_are_told_at_once_and_nothing_is_left(load, storage, tmp_path):
    prepare(load(), storage)
    loaded = load("env: {HF_TOKEN: null, OTHER: null, GIVEN: null}\ntracking: {uri: './mlruns'}\n")
    (loaded.folder / ".rayignore").write_text("recipe.py\n")
    with pytest.raises(UsageError) as caught:
        prepare(loaded, storage, environ={"GIVEN": "x"})
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "env.HF_TOKEN",
        "env.OTHER",
        "name",
        "recipe.target",
        "tracking.uri",
    ]
    assert names_in(storage) == ["tiny"]
    assert names_in(tmp_path) == ["job", "runs"]


def test_an_absent_tracking_server_is_out_of_reach(load, storage):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OutOfReachError, match=rf"^tracking.uri: .*127\.0\.0\.1:{port}.* does not answer"):
        prepare(load(f"tracking: {{uri: 'http://127.0.0.1:{port}'}}\n"), storage)
    assert not storage.exists()


def test_a_storage_that_cannot_be_made_is_refused(load, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^storage: .*file/deep/runs cannot be written: Not a directory"):
        prepare(load(), tmp_path / "file" / "deep" / "runs")


def test_a_storage_that_is_a_file_is_refused(load, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^storage: .*file cannot be written"):
        prepare(load(), tmp_path / "file")


def test_a_refused_job_leaves_no_storage(load, tmp_path):
    with pytest.raises(UsageError, match=r"env\.X"):
        prepare(load("env: {X: null}\n"), tmp_path / "a" / "b" / "runs", environ={})
    assert names_in(tmp_path) == ["job"]


def test_links_that_do_not_travel_are_told(load, storage, tmp_path):
    loaded = load()
    (loaded.folder / "data").symlink_to(tmp_path)
    assert prepare(loaded, storage).warnings == ("data: a link out of the folder, or to nothing, does not travel.",)


def test_resume_and_new_name_exclude_each_other(load, storage):
    with pytest.raises(UsageError, match="--new-name"):
        prepare(load(), storage, new_name=True, resume=True)
