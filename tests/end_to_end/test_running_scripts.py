"""An unmodified script on every rank: as torchrun starts it, with its failures, its stop and its second start."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from end_to_end.user import lines, run, start, state, wait_until
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(600)]
SPEC = """
name: tiny
script: {path: train.py}
resources: {workers: 2}
tracking: {system_metrics_every_s: null}
"""
SWEEP = """
name: tiny
script: {path: train.py, args: [--epochs, 3]}
resources: {workers: 2}
retries: {user_error: 1, infrastructure: 1, classes: [{cause: infrastructure, exit_codes: [75]}]}
tracking: {system_metrics_every_s: null}
sweep: {script.options.busy: [false, true]}
trials: {concurrent: 2}
"""
TRAIN = """
import os, sys, time
if "--busy" in sys.argv and os.environ["ORCHESTRATOR_ATTEMPT"] == "1":
    sys.exit(75)
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank = dist.get_rank()
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
print(f"rank {rank} of {dist.get_world_size()} with {sys.argv[1:]}: {total.item()}")
if os.environ["ORCHESTRATOR_ATTEMPT"] == "1":
    if rank == 1:
        raise ValueError("boom")
    time.sleep(600)
if rank == 0:
    import mlflow
    with mlflow.start_run():
        mlflow.log_metric("total", total.item(), step=7)
dist.destroy_process_group()
"""
PATIENT = """
import os, signal, sys, time
from pathlib import Path

saved = Path(os.environ["ORCHESTRATOR_RUN_DIRECTORY"], "saved_" + os.environ["RANK"])
if saved.exists():
    print("goes on from", saved.name)
    sys.exit("out of data" if os.environ["RANK"] == "1" else 0)

def save(*_):
    saved.touch()
    sys.exit(0)

signal.signal(signal.SIGTERM, save)
print("waits", os.getpid())
while True:
    time.sleep(0.01)
"""


def write_script(folder: Path, source: str, spec: str) -> Path:
    folder.mkdir()
    (folder / "train.py").write_text(source, encoding="utf-8")
    (folder / "job.yaml").write_text(spec, encoding="utf-8")
    return folder / "job.yaml"


def log(run_directory: Path, attempt: int, rank: int) -> str:
    path = run_directory / "logs" / str(attempt) / f"rank_{rank}.log"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def runs_of(storage: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    return list(client.search_runs([client.get_experiment_by_name("tiny").experiment_id]))


def only_run(run_directory: Path) -> Run:
    (found,) = runs_of(run_directory.parent)
    assert found.info.run_id == state(run_directory)["mlflow_run_id"]
    return found


def restarting(run_directory: Path) -> dict[str, Any]:
    (event,) = (event for event in lines(run_directory / "events.jsonl") if event["event"] == "restarting")
    return event


def test_the_trials_of_a_sweep_train_in_groups_and_start_again_by_cause(tmp_path: Path) -> None:
    run_directory = tmp_path / "runs" / "tiny"
    code, output = run("run", write_script(tmp_path / "job", TRAIN, SWEEP), "--storage", tmp_path / "runs")
    assert code == 0, output
    assert state(run_directory)["message"] == "2 of 2 trials ended (2 finished)"
    failing, busy = trials = [run_directory / "trials" / number for number in ("0", "1")]
    assert "trial 0: train.py on rank 1 ended with exit code 1: ValueError: boom; restarting" in output
    assert (restarting(failing)["cause"], restarting(failing)["rank"]) == ("user_error", 1)
    assert "ValueError: boom" in log(failing, 1, 1)
    assert "ended with exit code 75; restarting (retries.infrastructure 1 of 1, by retries.classes.0)" in output
    assert (restarting(busy)["cause"], restarting(busy)["told_by"]) == ("infrastructure", "retries.classes.0")
    assert state(busy)["retries_used"] == {"infrastructure": 1}
    assert [state(trial)["message"] for trial in trials] == ["train.py finished on 2 workers"] * 2
    for rank in (0, 1):
        for attempt in (1, 2):
            assert f"rank {rank} of 2 with ['--epochs', '3']: 3.0\n" in log(failing, attempt, rank)
        assert f"rank {rank} of 2 with ['--epochs', '3', '--busy']: 3.0\n" in log(busy, 2, rank)
    histories = {history.info.run_id: history for history in runs_of(tmp_path / "runs")}
    whole = histories.pop(state(run_directory)["mlflow_run_id"])
    assert (whole.info.status, whole.data.metrics) == ("FINISHED", {})
    assert {*histories} == {state(trial)["mlflow_run_id"] for trial in trials}
    for number, trial in enumerate(trials):
        history = histories[state(trial)["mlflow_run_id"]]
        assert (history.info.run_name, history.info.status) == (f"tiny-{number}", "FINISHED")
        assert history.data.metrics == {"total": 3.0}
        assert history.data.params["script.path"] == "train.py"
        assert history.data.tags["mlflow.parentRunId"] == whole.info.run_id
    # Rank 0 slept on when rank 1 failed.
    assert not [process for process in psutil.process_iter() if str(run_directory) in " ".join(_command(process))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return [process.cwd(), *process.cmdline()]
    except psutil.Error:
        return []


def test_it_saves_when_stopped_and_a_failure_after_its_resumption_ends_the_job(tmp_path: Path) -> None:
    run_directory = tmp_path / "runs" / "tiny"
    spec = write_script(tmp_path / "job", PATIENT, SPEC)
    process = start("run", spec, "--storage", tmp_path / "runs")
    wait_until(lambda: all(log(run_directory, 1, rank) for rank in (0, 1)), "both scripts")
    pids = [int(log(run_directory, 1, rank).split()[1]) for rank in (0, 1)]
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 3, output
    assert "stopping: the script gets SIGTERM" in output
    assert "stopped; train.py on rank 0 ended with exit code 0; `orchestrator resume tiny` continues." in output
    assert (state(run_directory)["phase"], state(run_directory)["reason"]) == ("stopped", "stop_requested")
    assert only_run(run_directory).info.status == "KILLED"
    assert not any(psutil.pid_exists(pid) for pid in pids)

    code, output = run("resume", "tiny", "--storage", tmp_path / "runs")
    assert code == 1, output
    assert output.endswith("error: train.py on rank 1 ended with exit code 1: out of data\n")
    assert f"the last lines of {run_directory}/logs/2/rank_1.log:\n    goes on from saved_1\n" in output
    assert (state(run_directory)["phase"], state(run_directory)["reason"]) == ("failed", "user_error")
    assert state(run_directory)["attempts"] == 2
    assert only_run(run_directory).info.status == "FAILED"
