"""A sweep of separate trainings through the command line: some at a time, one pruned, one failing, stop and resume."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from end_to_end.user import lines, run, start, state, steps, wait_until, write_job
from launch.ray_head import TOKEN, RayHead
from mlflow import MlflowClient

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
ENV = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
STEPS = 40
SPEC = f"""
name: tiny
recipe: {{target: 'tiny.py:Digits', args: {{sleep_s: 0.02}}}}
train: {{steps: {STEPS}, eval_every: 10}}
batch: {{global_size: 96}}
optimizer: {{name: lamb, lr: 0.02}}
checkpoint: {{every: 10}}
tracking: {{system_metrics_every_s: null}}
"""
COMPARED = """
trials: {concurrent: 2, early_stopping: {rule: asha, first: {steps: 10}, reduction_factor: 2}}
sweep:
  zip:
    optimizer.lr: [0.02, 0.02, 1.0e-6, 0.04]
    recipe.args.fail_at: [0, 5, 0, 0]
    recipe.args.sleep_s: [0.02, 0.02, 0.2, 0.02]
    resources.workers: [1, 1, 1, 2]
"""


def trials_of(job: Path) -> list[Path]:
    return sorted((job / "trials").iterdir(), key=lambda path: int(path.name))


def events(run_directory: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in lines(run_directory / "events.jsonl") if event["event"] == name]


def test_trials_finish_fail_or_are_stopped_each_for_itself(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    code, output = run("run", write_job(tmp_path / "job", SPEC + COMPARED), "--storage", storage)
    assert code == 1, output
    job, trials = storage / "tiny", trials_of(storage / "tiny")
    assert [state(trial)["phase"] for trial in trials] == ["succeeded", "failed", "stopped", "succeeded"], output
    assert state(job)["message"].startswith(
        "1 of 4 trials failed: trial 1 (optimizer.lr = 0.02, recipe.args.fail_at = 5"
    )
    assert "the digits are blurred" in state(job)["message"]
    # The one that learned nothing was stopped after its step, with a checkpoint.
    assert state(trials[2])["reason"] == "pruned"
    assert state(trials[2])["message"].startswith("stopped early by asha: eval/loss 2.")
    last = steps(trials[2])[-1]
    assert 10 <= last < STEPS
    assert (trials[2] / "checkpoints" / f"step_{last}").is_dir()
    assert [steps(trials[number]) for number in (0, 3)] == [list(range(1, STEPS + 1))] * 2
    # Two at a time, on one private Ray.
    started = {event["trial"]: event["time"] for event in events(job, "trial_started")}
    ended = {event["trial"]: event["time"] for event in events(job, "trial_ended")}
    assert started[1] < min(ended.values()) < started[2]
    assert "trial 2 pruned: stopped early by asha" in output
    assert output.count("best: trial ") == 1
    check_mlflow(tmp_path, job, trials)
    code, output = run("compare", "tiny", "--storage", storage)
    assert code == 0, output
    assert [line.split()[0] for line in output.splitlines()[1:5]] == [f"tiny/{number}" for number in range(4)]


def check_mlflow(folder: Path, job: Path, trials: list[Path]) -> None:
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    parent = client.get_run(state(job)["mlflow_run_id"])
    children = [client.get_run(state(trial)["mlflow_run_id"]) for trial in trials]
    assert parent.info.status == "FAILED"
    assert [child.info.status for child in children] == ["FINISHED", "FAILED", "KILLED", "FINISHED"]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert [child.data.tags["trial"] for child in children] == ["0", "1", "2", "3"]
    assert [child.info.run_name for child in children] == [f"tiny-{number}" for number in range(4)]
    assert [child.data.params["resources.workers"] for child in children] == ["1", "1", "1", "2"]
    found = client.search_runs([parent.info.experiment_id])
    assert {one.info.run_id for one in found} == {parent.info.run_id, *(child.info.run_id for child in children)}
    assert len(client.get_metric_history(children[3].info.run_id, "loss")) == STEPS
    assert client.get_experiment(parent.info.experiment_id).name == "tiny"


def test_a_stopped_sweep_and_one_whose_driver_was_killed_go_on(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    job, trials = storage / "tiny", [storage / "tiny" / "trials" / str(number) for number in range(2)]
    sweep = "sweep: {zip: {train.seed: [0, 1], recipe.args.sleep_s: [0.0, 0.15]}}\n"
    process = start("run", write_job(tmp_path / "job", SPEC + sweep), "--storage", storage)
    wait_until(lambda: len(steps(trials[1])) >= 5, "5 steps of the second trial")
    code, output = run("stop", "tiny", "--storage", storage)
    assert code == 0, output
    output, _ = process.communicate()
    assert process.returncode == 3, output
    assert [state(trial)["phase"] for trial in trials] == ["succeeded", "stopped"]
    assert state(job)["message"] == "1 of 2 trials ended (1 finished)"
    finished, stopped_at = state(trials[0]), steps(trials[1])[-1]
    assert 5 <= stopped_at < STEPS

    process = start("resume", "tiny", "--storage", storage)
    wait_until(lambda: len(steps(trials[1])) > stopped_at, "another step")
    trial_driver = psutil.Process(state(trials[1])["driver"]["pid"])
    os.kill(state(job)["driver"]["pid"], signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 1, output
    wait_until(lambda: not trial_driver.is_running() or trial_driver.status() == psutil.STATUS_ZOMBIE, "its end")
    assert (state(job)["reason"], state(trials[1])["phase"]) == ("driver_lost", "failed")

    code, output = run("resume", "tiny", "--storage", storage)
    assert code == 0, output
    assert [state(trial)["phase"] for trial in trials] == ["succeeded"] * 2
    assert state(trials[0]) == finished, "it was not run again"
    assert [steps(trial) for trial in trials] == [list(range(1, STEPS + 1))] * 2
    assert [state(trial)["attempts"] for trial in trials] == [1, 3]
    assert events(trials[1], "resumed")[0]["step"] == stopped_at
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    assert len(client.search_runs([client.get_experiment_by_name("tiny").experiment_id])) == 3


@pytest.fixture
def cluster() -> Iterator[RayHead]:
    with RayHead(ROOT) as head:
        yield head


def test_on_a_cluster_each_trial_waits_for_its_own_place(cluster: RayHead, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    sweep = "sweep: {train.seed: [0, 1, 2]}\ntrials: {concurrent: 3}\n"
    spec = write_job(tmp_path / "job", SPEC + sweep)
    follower = start("submit", spec, "--address", cluster.address, "--storage", storage, "--follow", env=ENV)
    trials = [storage / "tiny" / "trials" / str(number) for number in range(3)]
    # Two CPUs, so that one of the three has to wait for another.
    wait_until(lambda: any(state(trial).get("queue", {}).get("position") == 1 for trial in trials), "one to wait")
    output, _ = follower.communicate()
    assert follower.returncode == 0, output
    assert [state(trial)["phase"] for trial in trials] == ["succeeded"] * 3
    assert [len(events(trial, "granted")) for trial in trials] == [1, 1, 1]
    assert [steps(trial) for trial in trials] == [list(range(1, STEPS + 1))] * 3
    assert output.count("best: trial") == 1
