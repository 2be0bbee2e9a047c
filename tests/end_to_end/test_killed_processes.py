"""kill -9 of a worker, and of everything, in mid-run: the job ends with the bits of an undisturbed one."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from end_to_end.user import (
    assert_ended_alike,
    lines,
    run,
    start,
    state,
    steps,
    wait_until,
    worker_processes,
    write_job,
)
from mlflow import MlflowClient

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(600)]
STEPS = 80
SPEC = f"""
name: tiny
recipe: {{target: 'tiny.py:Digits', args: {{batch_norm: true, dropout: 0.1, sleep_s: 0.05}}}}
train: {{steps: {STEPS}, eval_every: 25}}
batch: {{global_size: 96, micro_size: 30}}
optimizer: {{name: lamb, lr: 0.02}}
schedule: {{name: polynomial, warmup: {{steps: 10}}}}
resources: {{workers: 2}}
checkpoint: {{every: 10}}
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output = run("run", write_job(folder / "job", SPEC), "--storage", folder / "runs")
    assert code == 0, output
    return folder / "runs" / "tiny"


def assert_equal_to(undisturbed: Path, run_directory: Path) -> None:
    assert_ended_alike(undisturbed, run_directory, STEPS)
    # The metrics are the same numbers too, but for the clock.
    clock = {"time", "samples_per_s", "step_s", "slowest_worker_ratio"}
    pairs = zip(lines(undisturbed / "metrics.jsonl"), lines(run_directory / "metrics.jsonl"), strict=True)
    for first, second in pairs:
        assert {k: v for k, v in first.items() if k not in clock} == {k: v for k, v in second.items() if k not in clock}


def assert_one_finished_run(run_directory: Path) -> None:
    client = MlflowClient(f"sqlite:///{run_directory.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    assert [r.info.run_id for r in runs] == [state(run_directory)["mlflow_run_id"]]
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.params["optimizer.name"] == "lamb"
    history = client.get_metric_history(runs[0].info.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(1, STEPS + 1))
    artifacts = {file.path for file in client.list_artifacts(runs[0].info.run_id)}
    assert {"resolved.yaml", "environment.json"} <= artifacts


def test_a_killed_worker_is_replaced(tmp_path: Path, undisturbed: Path) -> None:
    run_directory = tmp_path / "runs" / "tiny"
    process = start("run", write_job(tmp_path / "job", SPEC), "--storage", tmp_path / "runs")
    wait_until(lambda: len(steps(run_directory)) >= 34, "34 steps")
    worker_processes(run_directory)[1].kill()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "resumed from step 30" in output
    assert state(run_directory)["attempts"] == 2
    restarting = [event for event in lines(run_directory / "events.jsonl") if event["event"] == "restarting"]
    assert [event["cause"] for event in restarting] == ["worker_lost"]
    assert_equal_to(undisturbed, run_directory)
    assert_one_finished_run(run_directory)


def test_a_killed_foreground_run_is_resumed(tmp_path: Path, undisturbed: Path) -> None:
    run_directory = tmp_path / "runs" / "tiny"
    process = start("run", write_job(tmp_path / "job", SPEC), "--storage", tmp_path / "runs")
    wait_until(lambda: len(steps(run_directory)) >= 44, "44 steps")
    workers = worker_processes(run_directory)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    # Nothing of it survives: the driver goes with the command, the private Ray with the driver.
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    wait_until(lambda: not psutil.pid_exists(state(run_directory)["driver"]["pid"]), "the driver to go")
    code, output = run("status", "tiny", "--storage", tmp_path / "runs", "--json")
    assert code == 0, output
    assert state(run_directory)["phase"] == "failed"

    latest = (run_directory / "checkpoints" / "LATEST").read_text().strip().removeprefix("step_")
    assert int(latest) >= 40
    code, output = run("resume", "tiny", "--storage", tmp_path / "runs")
    assert code == 0, output
    assert f"resumed from step {latest}" in output
    assert_equal_to(undisturbed, run_directory)
    assert_one_finished_run(run_directory)
