"""A head is killed under a running and a waiting job; `orchestrator recover` hands both to another one."""

import json
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from end_to_end.user import lines, run, start, state, steps, wait_until, write_job
from launch.ray_head import TOKEN, RayHead
from mlflow import MlflowClient

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
ENV = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
STEPS = 60
SPEC = """
name: {name}
recipe: {{target: 'tiny.py:Digits', args: {{sleep_s: {sleep_s}}}}}
train: {{steps: {steps}}}
batch: {{global_size: 96}}
resources: {{workers: 2}}
checkpoint: {{every: 5}}
queue: {{priority: {priority}}}
tracking: {{system_metrics_every_s: null}}
"""


def kill_head(head: RayHead) -> None:
    """As a machine that loses its power: every process of it, by its id, and none has time for a last word."""
    processes = [psutil.Process(head.process.pid), *psutil.Process(head.process.pid).children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)  # nobody notices that others are gone before it is gone itself
    for process in processes:
        process.kill()
    head.process.wait()
    psutil.wait_procs(processes, timeout=60)
    shutil.rmtree(head.folder, ignore_errors=True)


def history_of(run_directory: Path) -> None:
    """One MLflow run over both lives, with every step once."""
    client = MlflowClient(f"sqlite:///{run_directory.parent}/mlflow.db")
    experiment = client.get_experiment_by_name(run_directory.name)
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == state(run_directory)["mlflow_run_id"]
    assert found.info.status == "FINISHED"
    points = client.get_metric_history(found.info.run_id, "loss")
    assert sorted({point.step for point in points}) == steps(run_directory)


def test_jobs_of_a_lost_head_go_on_where_they_were(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    running, waiting = storage / "running", storage / "waiting"
    jobs = {
        "running": {"sleep_s": 0.2, "steps": STEPS, "priority": 0},
        "waiting": {"sleep_s": 0.0, "steps": 3, "priority": -1},
    }
    specs = {name: write_job(tmp_path / name, SPEC.format(name=name, **fields)) for name, fields in jobs.items()}
    head = RayHead(ROOT)
    try:
        head.wait_until_up()
        for name in ("running", "waiting"):
            code, output = run("submit", specs[name], "--address", head.address, "--storage", storage, env=ENV)
            assert code == 0, output
        wait_until(lambda: len(steps(running)) >= 12, "12 steps")
        wait_until(lambda: state(waiting).get("queue", {}).get("position") == 1, "the other one to wait")
        kill_head(head)
    finally:
        head.close()
    assert [state(run)["phase"] for run in (running, waiting)] == ["running", "queued"]
    run_id, taken = state(running)["mlflow_run_id"], len(steps(running))

    head = RayHead(ROOT)
    try:
        head.wait_until_up()
        recover = ("recover", "--address", head.address, "--storage", storage)
        code, output = run(*recover, "--dry-run", "--json", env=ENV)
        assert code == 0, output
        planned = json.loads(output)["jobs"]
        actions = [(job["name"], job["action"]) for job in planned]
        assert actions == [("running", "resubmit"), ("waiting", "resubmit")]
        assert "and its driver (pid" in planned[0]["why"]
        assert state(running)["phase"] == "running"

        # Two at once, and a third one afterwards: each job is handed over once.
        first, second = (start(*recover, env=ENV) for _ in range(2))
        outputs = [process.communicate()[0] for process in (first, second)]
        assert sorted([first.returncode, second.returncode]) in ([0, 0], [0, 5]), outputs
        assert "running  resubmitted" in "".join(outputs)
        code, output = run(*recover, env=ENV)
        assert (code, "resubmitted" in output) == (0, False), output

        wait_until(lambda: state(waiting)["phase"] == "succeeded", "the waiting job's end")
        assert state(running)["phase"] == "succeeded"
    finally:
        head.close()
    assert (steps(running), steps(waiting)) == (list(range(1, STEPS + 1)), [1, 2, 3])
    for run_directory in (running, waiting):
        assert state(run_directory)["submissions"] == 2
        assert state(run_directory)["backend"]["submission_id"].endswith("-a2")
        history_of(run_directory)
    assert state(running)["mlflow_run_id"] == run_id
    (resumed,) = [event for event in lines(running / "events.jsonl") if event["event"] == "resumed"]
    assert taken - 5 <= resumed["step"] <= taken
