"""`orchestrator queue`, and what is told of the queue elsewhere."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.notices import Notice, notice_of
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare, prepare_resume
from orchestrator.spec.load import load_resolved, load_spec

PLACE = {"priority": 0, "owner": "ann", "workers": 2, "gpus": 0.0, "cpus": 2.0}


@pytest.fixture
def job(spec: Path, storage: Path) -> Any:
    """Makes a job with this record of the queue."""

    def make(name: str, phase: str = "queued", message: str = "", **queue: Any) -> RunDirectory:
        run = prepare(load_spec(spec, [f"name={name}"]), storage).run_directory
        if queue:
            run.update_state(phase=phase, message=message, queue={**PLACE, **queue})
        return run

    return make


def test_those_with_a_place_come_first_then_the_queue_in_its_order(cli: Any, job: Any, storage: Path) -> None:
    job("second", position=2, waiting=2, message="needs 8 GPUs, 6 free; 1 job ahead", gpus=8.0)
    job("first", position=1, waiting=2, message="needs 2 CPUs, 1 free; first in the queue", priority=5)
    job("asking", waiting=2)
    job("holder", "running", message="of the training", position=0, owner="bob")
    job("over", "failed", position=1)
    job("here")  # of a private cluster
    header, *rows = cli("queue", "--storage", storage).out.splitlines()
    assert header.split() == ["POSITION", "NAME", "PHASE", "PRIORITY", "OWNER", "NEEDS", "AGE", "REASON"]
    assert [row.split()[:4] for row in rows[1:3]] == [["1", "first", "queued", "5"], ["2", "second", "queued", "0"]]
    assert [rows[0].split()[:4], rows[3].split()[:3]] == [["holder", "running", "0", "bob"], ["asking", "queued", "0"]]
    assert "8 GPUs, 2 CPUs" in rows[2]
    assert rows[2].endswith("needs 8 GPUs, 6 free; 1 job ahead")


def test_as_json_with_the_quotas(cli: Any, job: Any, storage: Path) -> None:
    run = job("first", position=1, waiting=1, message="why")
    (storage / "queue.yaml").write_text("quotas: {ann: {gpus: 4}}\n")
    assert json.loads(cli("queue", "--storage", storage, "--json").out) == {
        "jobs": [
            {"name": "first", "phase": "queued", "position": 1, **PLACE, "reason": "why"}
            | {"submitted_at": run.read_state()["created_at"]}
        ],
        "quotas": {"ann": {"gpus": 4, "cpus": None}},
    }


def test_an_empty_queue_and_a_wrong_file(cli: Any, storage: Path) -> None:
    answer = cli("queue", "--storage", storage)
    assert (answer.code, answer.out) == (0, "")
    assert "No job of" in answer.err
    storage.mkdir()
    (storage / "queue.yaml").write_text("quotas: {ann: {gpus: -4}}\n")
    answer = cli("queue", "--storage", storage)
    assert answer.code == 2
    assert "queue.yaml:1: quotas.ann.gpus = -4: not legal" in answer.err


def test_a_wrong_file_is_told_before_a_job_is_made(cli: Any, spec: Path, storage: Path) -> None:
    storage.mkdir()
    (storage / "queue.yaml").write_text("quota: {}\n")
    for command in (("submit", spec), ("resume", "moved")):
        if command[0] == "resume":
            prepare(load_spec(spec, ["name=moved"]), storage).run_directory.update_state(phase="stopped")
        answer = cli(*command, "--address", "http://127.0.0.1:9", "--storage", storage)
        assert answer.code == 2
        assert "queue.yaml:1: quota = {}: unknown key. Legal: quotas" in answer.err
    assert not (storage / "tiny").exists()


def test_the_submitter_owns_a_job_that_names_nobody_and_keeps_it(
    spec: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(load_spec(spec), storage).run_directory
    assert load_resolved(run.resolved_spec).queue.owner == getpass.getuser()
    named = prepare(load_spec(spec, ["name=named", "queue.owner=ann"]), storage).run_directory
    assert load_resolved(named.resolved_spec).queue.owner == "ann"
    run.update_state(phase="stopped", finished_at=1.0)
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody else")
    assert prepare_resume(run, ["queue.priority=3"]).spec.queue.owner != "somebody else"
    run.update_state(phase="stopped", finished_at=1.0)
    again = prepare(load_spec(spec, ["queue.priority=4"]), storage, resume=True).spec
    assert (again.queue.priority, again.queue.owner) == (4, load_resolved(run.resolved_spec).queue.owner)
    assert again.queue.owner != "somebody else"


def test_a_user_without_a_name_is_a_number(spec: Path, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nameless)
    owner = prepare(load_spec(spec), storage).spec.queue.owner
    assert owner is not None
    assert owner.isdecimal()


def test_what_a_follower_is_told_beyond_the_plain_words() -> None:
    assert notice_of({"event": "queued", "resumed": False}) is None
    granted = {"event": "granted", "nodes": {"a": 1}, "waited_s": 12.3, "backfilled": True}
    assert notice_of(granted) == Notice("has its place on 1 node after 12 s, ahead of jobs that it does not delay")
