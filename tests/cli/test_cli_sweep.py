"""What the commands show of a sweep: its trials before, during and after the training."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import SPEC

from orchestrator.cli.follow import Evaluation, Follower, Length, Progress, slowest
from orchestrator.cli.jobs import progress_of
from orchestrator.cli.notices import Notice
from orchestrator.cli.report import line_of
from orchestrator.cli.workers import slowest_worker
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.worker_times import StepTimes, encode_step
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec

SWEEP = (
    "resources: {workers: 2}\nexchange: coded\nsweep: {optimizer: [sgd, {name: lamb, lr: 0.02}], train.seed: [0, 1]}\n"
)
TABLE = [
    ["TRIAL", "optimizer", "train.seed"],
    ["0", "sgd", "0"],
    ["1", "sgd", "1"],
    ["2", '{"name": "lamb", "lr": 0.02}', "0"],
    ["3", '{"name": "lamb", "lr": 0.02}', "1"],
]


@pytest.fixture
def sweep(spec: Path) -> Path:
    spec.write_text(SPEC + SWEEP)
    return spec


@pytest.fixture
def run(sweep: Path, storage: Path) -> RunDirectory:
    return prepare(load_spec(sweep), storage).run_directory


def cells(lines: list[str]) -> list[list[str]]:
    return [re.split(r"  +", line.strip()) for line in lines]


def table_in(out: str) -> list[list[str]]:
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("TRIAL"))
    return cells(lines[start : start + 5])


def announce(trial: RunDirectory, total_steps: int) -> None:
    fields = {"step": 0, "workers": 2, "total_steps": total_steps, "total_samples": 10 * total_steps}
    trial.event("started", fields)


def log(trial: RunDirectory, step: int, **metrics: Any) -> None:
    line = {"step": step, "samples": 10 * step, "loss": 1.0, "samples_per_s": 100.0, **metrics}
    with trial.metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


# Before


def test_check_shows_what_each_trial_sets(cli, sweep: Path) -> None:
    answer = cli("check", sweep)
    assert answer.code == 0
    assert f"{sweep}: job tiny is in order, a sweep of 4 trials\n" in answer.out
    assert table_in(answer.out) == TABLE
    trials = json.loads(cli("check", sweep, "--json").out)["trials"]
    assert trials[2] == {"optimizer": {"name": "lamb", "lr": 0.02}, "train.seed": 0}


def test_plan_shows_what_each_trial_sets_and_the_numbers_of_the_first(cli, sweep: Path, storage: Path) -> None:
    out = cli("plan", sweep, "--storage", storage, "--set", "sweep={train.steps: [7, 9], train.seed: [0, 1]}").out
    assert re.search(r"^sweep +4 trials that share the workers$", out, re.MULTILINE)
    assert re.search(r"^length +7 steps, 896 samples \(trial 0\)$", out, re.MULTILINE)
    assert "with the weights and gradients of 4 models like trial 0's\n" in out
    assert table_in(out)[1:] == [["0", "7", "0"], ["1", "7", "1"], ["2", "9", "0"], ["3", "9", "1"]]


# During


def test_evaluations_and_warnings_are_told_of_their_trial(run: RunDirectory) -> None:
    follower = Follower(run)
    assert len(follower.poll()) == 1  # queued
    for trial in run.trials:
        announce(trial, 20)
    run.event("restarting", {"message": "a worker was lost", "budget": "1 of 10"})
    run.trial(3).event("tracking_outage", {"message": "no route"})
    log(run.trial(2), 5, **{"eval/accuracy": 0.5})
    first, second, third, fourth = follower.poll()
    assert first == Notice("a worker was lost; restarting (1 of 10)", "warning")
    assert second == Evaluation(5, {"eval/accuracy": 0.5}, trial=2)
    assert third == Notice("trial 3: metrics wait in the run directory: no route", "warning")
    assert isinstance(fourth, Progress)
    assert line_of(second) == "trial 2  step 5  eval/accuracy 0.5"
    assert follower.poll() == []


def test_the_progress_of_a_sweep_is_that_of_the_slowest_trial(run: RunDirectory) -> None:
    follower = Follower(run)
    follower.poll()
    for trial, steps in zip(run.trials, (10, 20, 20, 20), strict=True):
        announce(trial, steps)
        log(trial, 10)
    log(run.trial(1), 11)
    log(run.trial(3), 11)
    (progress,) = follower.poll()
    # Trial 0 has taken the fewest steps, and all of them.
    assert (progress.metrics["step"], progress.length, progress.num_trials) == (10, Length(20, 200), 4)
    assert line_of(progress) == "4 trials, the slowest at step 10/20  1 s left"


def test_a_trial_that_diverged_is_told_and_holds_up_nothing(run: RunDirectory) -> None:
    follower = Follower(run)
    for trial in run.trials:
        announce(trial, 20)
        log(trial, 3)
    run.trial(2).event("diverged", {"message": "The loss is nan at step 3."})
    run.trial(2).update_state(phase="failed")
    for number in (0, 1, 3):
        log(run.trial(number), 12)
    *_, warning, progress = follower.poll()
    assert warning == Notice("trial 2: ends here: The loss is nan at step 3.", "warning")
    assert progress.metrics["step"] == 12
    assert progress_of(run).metrics["step"] == 12
    # A job that goes on takes its steps again.
    announce(run.trial(2), 20)
    log(run.trial(2), 4)
    *_, progress = follower.poll()
    assert progress.metrics["step"] == 4


def test_a_finished_trial_does_not_hold_up_what_is_told_after_a_restart(run: RunDirectory) -> None:
    for trial in run.trials:
        announce(trial, 20)
        log(trial, 12)
    follower = Follower(run, skip_existing=True)
    for trial in run.trials[1:]:
        announce(trial, 20)
        log(trial, 13)
    assert [update.metrics["step"] for update in follower.poll() if isinstance(update, Progress)] == [13]


def test_the_slowest_by_step_where_no_length_is_known() -> None:
    assert slowest([]) is None
    found = slowest([Progress({"step": 3}, Length()), Progress({"step": 2}, Length())])
    assert found == Progress({"step": 2}, Length())


def test_status_shows_the_trials_and_list_the_job(cli, run: RunDirectory, storage: Path) -> None:
    run.update_state(phase="running", attempts=1, started_at=time.time() - 5)
    for trial, steps in zip(run.trials, (8, 6, 5, 20), strict=True):
        announce(trial, 20)
        log(trial, steps, loss=1 / steps, **({"eval/accuracy": 0.5} if steps == 20 else {}))
        trial.update_state(phase="running", attempts=1, mlflow_run_id=f"run-{trial.name}")
    run.trial(3).model_file.touch()
    run.trial(3).update_state(phase="succeeded")
    out = cli("status", "tiny", "--storage", storage).out
    assert re.search(r"^progress +step 5/20$", out, re.MULTILINE)
    assert not re.search(r"^loss", out, re.MULTILINE)
    header, *rows = table_in(out)
    assert header == [*TABLE[0], "PHASE", "STEP", "LOSS", "eval/accuracy", "MODEL"]
    assert rows[2] == ["2", '{"name": "lamb", "lr": 0.02}', "0", "running", "5", "0.2"]
    assert rows[3][3:] == ["succeeded", "20", "0.05", "0.5", str(run.trial(3).model_file)]
    (line,) = cells(cli("list", "--storage", storage).out.splitlines()[1:])
    assert line[:4] == ["tiny", "running", "5/20", "1"]


def test_status_as_json_has_the_trials(cli, run: RunDirectory, storage: Path) -> None:
    log(run.trial(1), 2, loss="NaN")
    run.trial(1).update_state(mlflow_run_id="abc")
    status = json.loads(cli("status", "tiny", "--storage", storage, "--json").out)
    assert (status["phase"], status["metrics"]) == ("queued", {})
    assert status["trials"][1] == {
        "trial": 1,
        "assignment": {"optimizer": "sgd", "train.seed": 1},
        "phase": "queued",
        "step": 2,
        "loss": "NaN",
        "evaluation": {},
        "model": None,
        "mlflow_run_id": "abc",
        "reason": None,
    }
    (job,) = json.loads(cli("list", "--storage", storage, "--json").out)
    assert "trials" not in job


def test_a_slow_worker_of_a_sweep_is_named(cli, run: RunDirectory, storage: Path) -> None:
    fields = {"worker": 1, "node": "a", "ratio": 2.0, "since_step": 1, "num_steps": 30}
    run.event("straggler", fields)
    assert slowest_worker(run) is None, "of an attempt that was placed before"
    run.event("placed", {"attempt": 2, "workers": 2})
    run.event("straggler", fields)
    lines = [encode_step(StepTimes(step, [0.1, 0.2], [64, 64])) for step in range(1, 31)]
    run.worker_times_file.write_bytes(b"".join(lines))
    assert slowest_worker(run) == "rank 1 on a, 2.0x the other worker over 30 steps"
    (first, second) = json.loads(cli("status", "tiny", "--storage", storage, "--json").out)["workers"]
    assert (first["slow_since_step"], second["slow_since_step"]) == (None, 1)


# After


def test_a_run_ends_with_a_table_of_its_trials(with_standin, sweep: Path, storage: Path) -> None:
    arguments = with_standin("train", "run", sweep, "--storage", storage)
    process = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert "trial 3  step 6  eval/accuracy 0.5" in lines
    assert any(re.fullmatch(r"4 trials, the slowest at step \d/6  0 s left", line) for line in lines)
    assert "result         succeeded" in lines
    assert not any(line.startswith(("loss ", "training starts")) for line in lines)
    header, *rows = table_in(process.stdout)
    assert header == [*TABLE[0], "PHASE", "STEP", "LOSS", "eval/accuracy", "MODEL"]
    trial_1 = ["1", "sgd", "1", "succeeded", "6", "0.1667", "0.5", f"{storage}/tiny/trials/1/model.safetensors"]
    assert rows[1] == trial_1
