"""The storage folder: where it is, what counts as a job, and who gets a name."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.core.errors import UsageError
from orchestrator.launch.store import JobStore, NameTakenError, candidate_names, resolve_storage


def publish(store: JobStore, name: str) -> None:
    with store.staging(name) as staged:
        staged.update_state(phase="queued")
        store.publish(staged, name)


@pytest.mark.parametrize(
    ("flag", "spec", "environ", "expected"),
    [
        ("flagged", "from-spec", {"ORCHESTRATOR_STORAGE": "from-env"}, "flagged"),
        (None, "from-spec", {"ORCHESTRATOR_STORAGE": "from-env"}, "from-spec"),
        (None, None, {"ORCHESTRATOR_STORAGE": "from-env"}, "from-env"),
        (None, None, {"ORCHESTRATOR_STORAGE": ""}, "runs"),
        (None, None, {}, "runs"),
    ],
)
def test_precedence_of_the_storage(flag, spec, environ, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_storage(flag, spec, environ) == tmp_path / expected


def test_storage_expands_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert resolve_storage("~/a/../runs", None, {}) == Path("/home/someone/runs")


def test_an_object_store_is_refused_with_its_source():
    with pytest.raises(UsageError, match=r"^storage: s3://bucket/runs is not a path"):
        resolve_storage(None, "s3://bucket/runs", {})


def test_only_folders_with_a_state_are_jobs(tmp_path):
    store = JobStore(tmp_path)
    publish(store, "b")
    publish(store, "a")
    (tmp_path / "notes").mkdir()
    (tmp_path / ".a.0.partial").mkdir()
    (tmp_path / ".a.0.partial" / "state.json").write_text("{}")
    assert [job.name for job in store.jobs()] == ["a", "b"]


def test_a_missing_storage_has_no_jobs_and_is_not_created(tmp_path):
    store = JobStore(tmp_path / "none")
    assert store.jobs() == []
    with pytest.raises(UsageError, match="there are no jobs"):
        store.get("a")
    assert not (tmp_path / "none").exists()


def test_get_shows_the_storage_and_the_nearest_name(tmp_path):
    store = JobStore(tmp_path)
    publish(store, "digits-lamb")
    assert store.get("digits-lamb").name == "digits-lamb"
    with pytest.raises(UsageError, match=f"no digits-lam in {tmp_path}; did you mean digits-lamb?"):
        store.get("digits-lam")
    with pytest.raises(UsageError, match="`orchestrator list`"):
        store.get("entirely-different")


def test_a_name_that_leaves_the_storage_is_not_found(tmp_path):
    publish(JobStore(tmp_path), "outside")
    publish(JobStore(tmp_path / "inner"), "inside")
    with pytest.raises(UsageError, match=r"no \.\./outside"):
        JobStore(tmp_path / "inner").get("../outside")


def test_what_is_not_published_leaves_nothing(tmp_path):
    store = JobStore(tmp_path)
    with store.staging("a") as staged:
        (staged.root / "file").write_text("half")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_name_is_refused_with_its_phase_and_left_alone(tmp_path):
    store = JobStore(tmp_path)
    publish(store, "a")
    before = (tmp_path / "a" / "state.json").read_text()
    with pytest.raises(NameTakenError, match=rf"^name: job a exists in {tmp_path} \(phase queued\).*resume a"):
        publish(store, "a")
    assert (tmp_path / "a" / "state.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path / "child").mkdir(parents=True)])
def test_something_else_of_that_name_is_in_the_way(make, tmp_path):
    make(tmp_path / "a")
    with pytest.raises(NameTakenError, match="not a job, but in the way"):
        publish(JobStore(tmp_path), "a")


def test_of_many_submitters_one_gets_the_name(tmp_path):
    def attempt(_: int) -> bool:
        try:
            publish(JobStore(tmp_path), "a")
        except NameTakenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(32))) == 1


def test_candidate_names_stay_legal():
    names = candidate_names("a" * 60 + "-bc")
    assert [next(names) for _ in range(3)] == ["a" * 60 + "-bc", "a" * 60 + "-2", "a" * 60 + "-3"]
