"""What a rank of a script is told, whom a failed attempt blames, and which GPUs a script sees."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule.attempt import GangAttempt
from orchestrator.schedule.script_process import ScriptEnd
from orchestrator.schedule.script_rank import Place, explain, free_port, script_environment
from orchestrator.spec.job import ScriptJobSpec
from orchestrator.spec.load import dump_resolved

PLACE = Place(
    rank=3, world_size=4, local_rank=1, local_world_size=2, node_rank=1, master_addr="10.0.0.1", master_port=20001
)


def script_spec(**sections: object) -> ScriptJobSpec:
    return ScriptJobSpec.model_validate({"name": "tiny", "script": {"path": "train.py"}, **sections})


def environment(spec: ScriptJobSpec, environ: dict[str, str] | None = None) -> dict[str, str]:
    directory = RunDirectory("/runs/tiny")
    return script_environment(environ or {}, spec, PLACE, directory, 2, "http://mlflow", "abc")


def test_the_usual_environment() -> None:
    assert environment(script_spec(), {"PATH": "/bin", "RANK": "7"}) == {
        "PATH": "/bin",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "NODE_RANK": "1",
        "GROUP_RANK": "1",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "20001",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCHELASTIC_RESTART_COUNT": "1",
        "MLFLOW_TRACKING_URI": "http://mlflow",
        "MLFLOW_EXPERIMENT_NAME": "tiny",
        "MLFLOW_RUN_ID": "abc",
        "ORCHESTRATOR_RUN_DIRECTORY": "/runs/tiny",
        "ORCHESTRATOR_ATTEMPT": "2",
    }


def test_threads_are_the_workers_cores_unless_the_spec_says_otherwise() -> None:
    inherited = {"OMP_NUM_THREADS": "7"}  # of the shell, or Ray's own
    assert environment(script_spec(resources={"cpus_per_worker": 3.5}), inherited)["OMP_NUM_THREADS"] == "3"
    assert environment(script_spec(resources={"cpus_per_worker": 0.5}), inherited)["OMP_NUM_THREADS"] == "1"
    assert environment(script_spec(env={"OMP_NUM_THREADS": "7"}), inherited)["OMP_NUM_THREADS"] == "7"


def test_gpus_are_those_that_ray_gave() -> None:
    inherited = {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert environment(script_spec(resources={"gpus_per_worker": 1}), inherited)["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert environment(script_spec(), inherited)["CUDA_VISIBLE_DEVICES"] == ""


def test_the_experiment_is_the_one_of_the_run() -> None:
    env = environment(script_spec(tracking={"experiment": "digits"}), {"MLFLOW_EXPERIMENT_ID": "17"})
    assert env["MLFLOW_EXPERIMENT_NAME"] == "digits"
    assert "MLFLOW_EXPERIMENT_ID" not in env


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with socket.socket() as listener:
        listener.bind(("", port))
        listener.listen()
        monkeypatch.setattr("orchestrator.schedule.script_rank._PORTS", range(port, port + 1))
        with pytest.raises(Exception, match=f"MASTER_PORT: no port from {port} to {port}"):
            free_port()


def test_a_signal_is_a_lost_worker_and_an_exit_code_the_users_error() -> None:
    name = "train.py on rank 1"
    assert explain(name, ScriptEnd(3, stopped=False), "ValueError: boom") == (
        "user_error",
        "train.py on rank 1 ended with exit code 3: ValueError: boom",
    )
    assert explain(name, ScriptEnd(-signal.SIGKILL, stopped=False), "") == (
        "worker_lost",
        "train.py on rank 1 was ended by SIGKILL",
    )


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "tiny")
    directory.rank_log(1, 0).parent.mkdir(parents=True)
    return directory


def note(directory: RunDirectory, rank: int, cause: str, seconds: int) -> None:
    path = directory.rank_log(1, rank).with_name(f"failure_rank_{rank}.json")
    path.write_text(json.dumps({"cause": cause, "message": f"rank {rank} failed"}))
    os.utime(path, (seconds, seconds))


class Failed(TrainingFailedError):
    """What Ray Train raises; of its own it takes the workers' errors only."""

    def __init__(self, *lost: int) -> None:
        super().__init__("failed")
        self.worker_failures = {rank: WorkerHealthCheckFailedError("gone", RuntimeError("gone")) for rank in lost}


@pytest.mark.parametrize(
    ("notes", "lost", "expected"),
    [
        ([(0, "user_error", 11), (1, "user_error", 10)], [], (1, "user_error")),  # rank 0 lost its neighbor
        ([(0, "user_error", 10), (1, "worker_lost", 11)], [], (0, "user_error")),  # NCCL aborts what is left
        ([(0, "user_error", 11), (1, "worker_lost", 10)], [], (1, "worker_lost")),  # out of memory on rank 1
        ([(0, "user_error", 10)], [1], (1, "worker_lost")),  # a node went, and its neighbor's script failed
    ],
)
def test_the_rank_that_failed_first_is_to_blame(
    notes: list[tuple[int, str, int]], lost: list[int], expected: tuple[int, str], directory: RunDirectory
) -> None:
    attempt = GangAttempt(directory, 1, script_spec(resources={"workers": 2}), {}, {})
    for rank, cause, seconds in notes:
        note(directory, rank, cause, seconds)
    failure = attempt._explain(Failed(*lost))
    assert (failure.rank, failure.cause) == expected


SCRIPT = """
import os
print(os.environ["LOCAL_RANK"], os.environ["CUDA_VISIBLE_DEVICES"], os.environ["MASTER_PORT"])
"""
CLUSTER = """
import sys
import ray
from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule.attempt import GangAttempt
from orchestrator.spec.load import load_resolved
ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, object_store_memory=2**27)
directory = RunDirectory(sys.argv[1])
arguments = {"run_directory": sys.argv[1], "attempt": 1, "tracking_uri": "", "mlflow_run_id": ""}
attempt = GangAttempt(directory, 1, load_resolved(directory.resolved_spec), {}, arguments)
attempt.start()
print(attempt.wait(600))
"""


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_every_rank_sees_the_gpus_of_its_node(directory: RunDirectory) -> None:
    """As under torchrun: LOCAL_RANK picks one of them. Ray takes our word that there are two."""
    directory.code.mkdir()
    (directory.code / "train.py").write_text(SCRIPT)
    spec = script_spec(resources={"workers": 2, "gpus_per_worker": 1}, tracking={"system_metrics_every_s": None})
    directory.resolved_spec.write_text(dump_resolved(spec), encoding="utf-8")
    command = [sys.executable, "-c", CLUSTER, str(directory.root)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Ended(outcome='finished', message='train.py finished on 2 workers')" in process.stdout
    first, second = (directory.rank_log(1, rank).read_text().split() for rank in (0, 1))
    assert sorted([first[0], second[0]]) == ["0", "1"]
    assert first[1:] == second[1:]
    assert first[1] == "0,1"
