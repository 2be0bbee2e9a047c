"""`list`, `status`, `logs` and `stop` on run directories as jobs leave them."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec

STEP = {"samples": 80, "lr": 0.01, "global_size": 8, "samples_per_s": 40.0}


@pytest.fixture
def run(spec: Path, storage: Path) -> RunDirectory:
    """A job that was prepared by this process, and whose driver never started."""
    return prepare(load_spec(spec), storage).run_directory


def play(run: RunDirectory, **state: Any) -> None:
    """Let the job take ten of twenty steps on two ranks, in its second attempt."""
    run.update_state(phase="running", attempts=2, started_at=time.time() - 65, mlflow_run_id="abc", **state)
    run.event("resumed", {"step": 4, "workers": 2, "total_steps": 20, "total_samples": 160})
    lines: list[dict[str, Any]] = [
        {"step": 9, "loss": 0.75, **STEP, "eval/accuracy": 0.5},
        {"step": 10, "loss": 0.5, **STEP},
    ]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for attempt, rank, text in [(1, 0, "old\n"), (2, 0, "zero\nnull\n"), (2, 1, "one\n"), (2, 10, "ten")]:
        path = run.rank_log(attempt, rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (run.logs / "driver.log").write_text("the driver\n")


def test_an_empty_storage_has_no_jobs(cli, storage: Path) -> None:
    answer = cli("list", "--storage", storage)
    assert (answer.code, answer.out) == (0, "")
    assert f"No jobs in {storage}" in answer.err
    assert json.loads(cli("list", "--storage", storage, "--json").out) == []
    assert not storage.exists()


def test_list_shows_the_newest_first(cli, run: RunDirectory, spec: Path, storage: Path) -> None:
    play(run)
    prepare(load_spec(spec, ["name=zebra"]), storage)
    header, second, first = cli("list", "--storage", storage).out.splitlines()
    assert header.split() == ["NAME", "PHASE", "STEP", "ATTEMPTS", "AGE", "MESSAGE"]
    assert second.split()[:3] == ["zebra", "queued", "0"]
    assert first.split()[:4] == ["tiny", "running", "10/20", "2"]
    jobs = json.loads(cli("list", "--storage", storage, "--json").out)
    assert [(job["name"], job["phase"], job["step"]) for job in jobs] == [
        ("zebra", "queued", 0),
        ("tiny", "running", 0),
    ]


def test_the_storage_may_come_from_the_environment(cli, run: RunDirectory, storage: Path, monkeypatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_STORAGE", str(storage))
    assert "tiny" in cli("list").out


def test_status_of_a_running_job(cli, run: RunDirectory, storage: Path) -> None:
    play(run)
    answer = cli("status", "tiny", "--storage", storage)
    assert (answer.code, answer.err) == (0, "")
    fields = dict(line.split("  ", 1) for line in answer.out.splitlines())
    fields = {label: text.strip() for label, text in fields.items()}
    assert fields["phase"] == "running"
    assert fields["progress"] == "step 10/20"
    assert fields["loss"] == "0.5"
    assert fields["eval/accuracy"] == "0.5"
    assert fields["samples/s"] == "40"
    assert fields["time left"] == "2 s"
    assert fields["wall time"].startswith("1 min 0")
    assert fields["run directory"] == str(run.root)
    assert fields["open MLflow"] == f"mlflow ui --backend-store-uri sqlite:///{storage}/mlflow.db"
    assert fields["next"] == "orchestrator logs -f tiny, orchestrator stop tiny"


def test_status_of_a_job_that_ended(cli, run: RunDirectory, storage: Path) -> None:
    play(run)
    run.update_state(phase="failed", reason="user_error", message="Tiny.loss raised", finished_at=time.time())
    out = cli("status", "tiny", "--storage", storage).out
    assert "reason         user_error" in out
    assert "message        Tiny.loss raised" in out
    assert "orchestrator resume tiny" in out
    assert "time left" not in out


def test_status_as_json_has_state_metrics_and_time_left(cli, run: RunDirectory, storage: Path) -> None:
    play(run)
    status = json.loads(cli("status", "tiny", "--storage", storage, "--json").out)
    assert status["phase"] == "running"
    assert status["metrics"] == {"step": 10, "loss": 0.5, **STEP, "eval/accuracy": 0.5}
    assert (status["total_steps"], status["left_s"]) == (20, 2.0)
    assert status["run_directory"] == str(run.root)


def test_status_closes_the_record_of_a_lost_job(cli, run: RunDirectory, storage: Path) -> None:
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    play(run, driver={**run.read_state()["submitter"], "pid": finished.pid, "started": 0.0})
    run.update_state(mlflow_run_id=None)
    out = cli("status", "tiny", "--storage", storage).out
    assert "phase          failed" in out
    assert "reason         driver_lost" in out


@pytest.mark.parametrize("command", ["status", "logs", "stop", "resume"])
def test_an_unknown_job_is_2_with_the_nearest_name(command: str, cli, run: RunDirectory, storage: Path) -> None:
    answer = cli(command, "tinny", "--storage", storage)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert "did you mean tiny?" in answer.err


def test_logs_are_those_of_the_last_attempt_rank_by_rank(cli, run: RunDirectory, storage: Path) -> None:
    play(run)
    out = cli("logs", "tiny", "--storage", storage).out
    assert out == "[rank 0] zero\n[rank 0] null\n[rank 1] one\n[rank 10] ten\n"


@pytest.mark.parametrize(
    ("options", "out"),
    [
        (["--rank", 1], "one\n"),
        (["--attempt", 1], "old\n"),
        (["--attempt", 2, "--rank", 0], "zero\nnull\n"),
        (["--driver"], "the driver\n"),
    ],
)
def test_logs_of_one_rank_attempt_or_the_driver(
    options: list[Any], out: str, cli, run: RunDirectory, storage: Path
) -> None:
    play(run)
    assert cli("logs", "tiny", "--storage", storage, *options).out == out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rank", 7], "tiny has no log of rank 7; there are 0, 1, 10."),
        (["--attempt", 3], "tiny has no attempt 3; there are 1, 2."),
    ],
)
def test_logs_that_are_not_there_are_said_to_be(options, message: str, cli, run: RunDirectory, storage: Path) -> None:
    play(run)
    answer = cli("logs", "tiny", "--storage", storage, *options)
    assert (answer.code, answer.out) == (0, "")
    assert message in answer.err


def test_logs_of_a_job_that_waits(cli, run: RunDirectory, storage: Path) -> None:
    assert "no rank of tiny has a log; it is queued." in cli("logs", "tiny", "--storage", storage).err


def test_the_log_of_the_driver_has_no_ranks(cli, run: RunDirectory, storage: Path) -> None:
    assert cli("logs", "tiny", "--storage", storage, "--driver", "--rank", 1).code == 2


@pytest.fixture
def following(run: RunDirectory, storage: Path) -> Iterator[subprocess.Popen[str]]:
    """`orchestrator logs -f` as a process of its own."""
    play(run)
    command = [Path(sys.executable).with_name("orchestrator"), "logs", "-f", "tiny", "--storage", str(storage)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def add(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def test_following_logs_goes_on_until_the_job_ends(following: subprocess.Popen[str], run: RunDirectory) -> None:
    assert following.stdout is not None
    assert following.stdout.readline() == "[rank 0] zero\n"
    add(run.rank_log(2, 10), " and more\n")
    lines = [following.stdout.readline() for _ in range(3)]
    assert lines == ["[rank 0] null\n", "[rank 1] one\n", "[rank 10] ten and more\n"]
    add(run.rank_log(3, 0), "next attempt\n")
    assert following.stdout.readline() == "[rank 0] next attempt\n"
    add(run.rank_log(2, 1), "last words\nof attempt 2")
    assert following.stdout.readline() == "[rank 1] last words\n"
    run.update_state(phase="stopped")
    assert following.stdout.read() == "[rank 1] of attempt 2\n"
    assert following.wait() == 0


def test_following_logs_ends_when_the_reader_leaves(following: subprocess.Popen[str], run: RunDirectory) -> None:
    assert following.stdout is not None
    assert following.stderr is not None
    following.stdout.readline()
    following.stdout.close()
    while following.poll() is None:
        add(run.rank_log(2, 0), "more\n")
        time.sleep(0.05)
    assert (following.returncode, following.stderr.read()) == (0, "")


def test_ctrl_c_ends_following(following: subprocess.Popen[str]) -> None:
    assert following.stdout is not None
    assert following.stderr is not None
    following.stdout.readline()
    following.send_signal(signal.SIGINT)
    assert (following.wait(), following.stderr.read()) == (130, "")


def test_stopping_a_job_that_ended_is_no_error(cli, run: RunDirectory, storage: Path) -> None:
    run.update_state(phase="succeeded")
    answer = cli("stop", "tiny", "--storage", storage)
    assert (answer.code, answer.out) == (0, "")
    assert "tiny had ended before: succeeded." in answer.err


def test_a_job_that_does_not_stop_in_time_is_4(cli, run: RunDirectory, storage: Path) -> None:
    answer = cli("stop", "tiny", "--storage", storage, "--timeout", 0.1)
    assert answer.code == 4
    assert "still queued after 0.1 s" in answer.err
    assert run.stop_file.exists()
