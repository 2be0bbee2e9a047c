"""What a job's end means, read from its run directory."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.follow import last_evaluation
from orchestrator.cli.result import (
    exit_code_of,
    failed_rank,
    log_that_explains,
    mlflow_command,
    wall_time_s,
)
from orchestrator.core.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ({"phase": "succeeded"}, 0),
        ({"phase": "stopped", "reason": "stop_requested"}, 3),
        ({"phase": "failed", "reason": "user_error", "exit_code": 1}, 1),
        ({"phase": "failed", "reason": "timed_out", "exit_code": 4}, 4),
        ({"phase": "failed", "reason": "could_not_start", "exit_code": 5}, 5),
        # The exit code of an earlier life, which had been stopped.
        ({"phase": "failed", "reason": "driver_lost", "exit_code": 3}, 1),
        ({"phase": "failed", "reason": "submission_failed"}, 1),
    ],
)
def test_the_exit_code_follows_from_the_state(state: dict[str, Any], code: int) -> None:
    assert exit_code_of(state) == code


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("sqlite:////data/mlflow.db", "mlflow ui --backend-store-uri sqlite:////data/mlflow.db"),
    ],
)
def test_how_to_open_mlflow(uri: str, command: str) -> None:
    assert mlflow_command(uri) == command


def test_wall_time_is_that_of_the_last_driver() -> None:
    assert wall_time_s({"started_at": 10.0, "finished_at": 25.0}, 99.0) == 15.0
    assert wall_time_s({"started_at": 10.0, "finished_at": None}, 99.0) == 89.0
    assert wall_time_s({"started_at": None}, 99.0) is None


def test_the_newest_evaluation_is_found_behind_other_lines(run: RunDirectory) -> None:
    assert last_evaluation(run) == {}
    lines: list[dict[str, Any]] = [
        {"step": 1, "eval/loss": 2.0},
        {"step": 2, "eval/loss": 1.0, "loss": 3.0},
        {"step": 3},
    ]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "eval/lo')
    assert last_evaluation(run) == {"eval/loss": 1.0}


def test_a_rank_is_to_blame_until_the_job_starts_again(run: RunDirectory) -> None:
    assert failed_rank(run) is None
    run.event("started", {})
    run.event("gave_up", {"rank": 3})
    run.event("failed", {})
    assert failed_rank(run) == 3
    run.event("queued", {"resumed": True})
    assert failed_rank(run) is None


def test_the_log_of_the_failed_rank_explains_else_that_of_the_driver(run: RunDirectory) -> None:
    state = {"attempts": 2}
    run.event("gave_up", {"rank": 0})
    assert log_that_explains(run, state) is None
    run.rank_log(2, 0).parent.mkdir(parents=True)
    run.rank_log(2, 0).write_text("")
    driver_log = run.driver_log
    driver_log.write_text("the driver")
    assert log_that_explains(run, state) == driver_log
    run.rank_log(2, 0).write_text("the rank")
    assert log_that_explains(run, state) == run.rank_log(2, 0)
