"""A coded job through the command line: the weights of all-reduce, workers and shards that are killed."""

import time
from pathlib import Path

import psutil
import pytest
import torch
from end_to_end.user import assert_ended_alike, lines, run, start, state, steps, wait_until, write_job
from mlflow import MlflowClient
from safetensors.torch import load_file

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(600)]
STEPS = 80
SPEC = f"""
name: tiny
recipe: {{target: 'tiny.py:Digits', args: {{dropout: 0.1, sleep_s: 0.1}}}}
train: {{steps: {STEPS}, eval_every: 25, clip_grad_norm: 0.5}}
batch: {{global_size: 90, micro_size: 12}}
optimizer: {{name: lamb, lr: 0.02}}
schedule: {{name: polynomial, warmup: {{steps: 10}}}}
resources: {{workers: 4, cpus_per_worker: 0.5}}
checkpoint: {{every: 10}}
exchange: {{name: coded, scheme: fractional, stragglers: 1, shards: 2, cpus_per_shard: 0.5}}
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output = run("run", write_job(folder / "job", SPEC), "--storage", folder / "runs")
    assert code == 0, output
    return folder / "runs" / "tiny"


def processes(run_directory: Path, kind: str) -> list[psutil.Process]:
    """The live processes of a foreground job's workers or shards, oldest first."""
    driver = psutil.Process(state(run_directory)["driver"]["pid"])
    found = [child for child in driver.children(recursive=True) if f"ray::{kind}Actor" in " ".join(child.cmdline())]
    return sorted(found, key=psutil.Process.create_time)


def events(run_directory: Path, name: str) -> list[dict[str, object]]:
    return [event for event in lines(run_directory / "events.jsonl") if event["event"] == name]


def test_all_reduce_takes_the_same_steps(undisturbed: Path, tmp_path: Path) -> None:
    plain = SPEC[: SPEC.index("exchange:")]
    job = write_job(tmp_path / "job", plain)
    code, output = run("run", job, "--storage", tmp_path / "runs")
    assert code == 0, output
    expected, got = load_file(tmp_path / "runs/tiny/model.safetensors"), load_file(undisturbed / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-6, msg=name)
    losses = [[line["loss"] for line in lines(d / "metrics.jsonl")] for d in (undisturbed, tmp_path / "runs/tiny")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_workers_killed_throughout_cost_no_attempt_and_no_bit(undisturbed: Path, tmp_path: Path) -> None:
    run_directory = tmp_path / "runs" / "tiny"
    process = start("run", write_job(tmp_path / "job", SPEC), "--storage", tmp_path / "runs")
    wait_until(lambda: len(steps(run_directory)) >= 3, "3 steps")
    num_killed = 0
    while process.poll() is None and len(steps(run_directory)) < STEPS - 3:
        # The next one when the last is replaced: who is killed before it begins was never a worker.
        if len(events(run_directory, "worker_replaced")) == num_killed:
            processes(run_directory, "Worker")[num_killed % 3].kill()
            num_killed += 1
        time.sleep(0.1)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert state(run_directory)["attempts"] == 1
    assert len(events(run_directory, "worker_lost")) == num_killed >= 2
    assert events(run_directory, "restarting") == []
    assert_ended_alike(undisturbed, run_directory, STEPS)


def test_a_killed_shard_goes_on_from_the_checkpoint(undisturbed: Path, tmp_path: Path) -> None:
    run_directory = tmp_path / "runs" / "tiny"
    process = start("run", write_job(tmp_path / "job", SPEC), "--storage", tmp_path / "runs")
    wait_until(lambda: len(steps(run_directory)) >= 24, "24 steps")
    processes(run_directory, "Shard")[1].kill()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert [event["cause"] for event in events(run_directory, "restarting")] == ["worker_lost"]
    assert "resumed from step 20" in output
    assert state(run_directory)["attempts"] == 2
    assert_ended_alike(undisturbed, run_directory, STEPS)


def test_a_sweep_trains_its_models_over_the_same_workers(tmp_path: Path) -> None:
    plain = SPEC[: SPEC.index("exchange:")].replace(f"steps: {STEPS}", "steps: 30")
    plain = plain.replace("dropout: 0.1, sleep_s: 0.1", "dropout: 0.0")
    coded = "exchange: {name: coded, scheme: m_sgc, cpus_per_shard: 0.5}\nsweep: {optimizer.lr: [0.01, 0.02, 0.04]}\n"
    code, output = run("run", write_job(tmp_path / "job", plain + coded), "--storage", tmp_path / "runs")
    assert code == 0, output
    job = tmp_path / "runs" / "tiny"
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    for number in range(3):
        trial = job / "trials" / str(number)
        assert steps(trial) == list(range(1, 31))
        mlflow_run = client.get_run(state(trial)["mlflow_run_id"])
        assert mlflow_run.info.status == "FINISHED"
        assert mlflow_run.data.tags["mlflow.parentRunId"] == state(job)["mlflow_run_id"]
        assert len(client.get_metric_history(mlflow_run.info.run_id, "loss")) == 30
        assert (trial / "model.safetensors").exists()
    # The trial in the middle is the spec without the sweep.
    code, output = run("run", write_job(tmp_path / "alone", plain), "--storage", tmp_path / "alone" / "runs")
    assert code == 0, output
    expected = load_file(tmp_path / "alone/runs/tiny/model.safetensors")
    for name, tensor in load_file(job / "trials" / "1" / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6, msg=name)


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    short = SPEC.replace(f"steps: {STEPS}", "steps: 30").replace("sleep_s: 0.1", "sleep_s: 0.0")
    # Without replicas nobody else has its chunk.
    coded = "exchange: {name: coded, scheme: uncoded, cpus_per_shard: 0.5, worker_timeout_s: 2}\n"
    run_directory = tmp_path / "runs" / "tiny"
    job = write_job(
        tmp_path / "job", short[: short.index("exchange:")].replace("sleep_s: 0.0", "sleep_s: 0.05") + coded
    )
    process = start("run", job, "--storage", tmp_path / "runs")
    wait_until(lambda: len(steps(run_directory)) >= 3, "3 steps")
    hung = processes(run_directory, "Worker")[2]
    hung.suspend()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "does not answer and is replaced" in output
    (event,) = events(run_directory, "worker_hung")
    assert [lost["worker"] for lost in events(run_directory, "worker_lost")] == [event["worker"]]
    assert not hung.is_running() or hung.status() == psutil.STATUS_ZOMBIE
    assert state(run_directory)["attempts"] == 1
    assert steps(run_directory) == list(range(1, 31))


def test_a_trial_that_diverges_fails_alone(tmp_path: Path) -> None:
    plain = (
        SPEC[: SPEC.index("exchange:")].replace(f"steps: {STEPS}", "steps: 12").replace("sleep_s: 0.1", "sleep_s: 0")
    )
    plain = plain.replace("{name: lamb, lr: 0.02}", "{name: sgd, lr: 0.02}").replace(", clip_grad_norm: 0.5", "")
    coded = "exchange: {name: coded, shards: 2, cpus_per_shard: 0.5}\nsweep: {optimizer.lr: [0.02, 1.0e+38, 0.04]}\n"
    code, output = run("run", write_job(tmp_path / "job", plain + coded), "--storage", tmp_path / "runs")
    assert code == 1, output
    job = tmp_path / "runs" / "tiny"
    assert state(job)["message"].startswith("1 of 3 trials diverged: trial 1 (optimizer.lr = 1e+38): The gradients of")
    assert state(job)["attempts"] == 1
    trials = [job / "trials" / str(number) for number in range(3)]
    assert [state(trial)["phase"] for trial in trials] == ["succeeded", "failed", "succeeded"]
    assert state(trials[1])["reason"] == "diverged"
    assert [(trial / "model.safetensors").exists() for trial in trials] == [True, False, True]
    assert steps(trials[2]) == list(range(1, 13))
    assert "trial 1: ends here: The gradients of" in output
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    statuses = [client.get_run(state(trial)["mlflow_run_id"]).info.status for trial in trials]
    assert statuses == ["FINISHED", "FAILED", "FINISHED"]
