"""An attempt whose node is gone before its workers start ends, with a real Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import make_run_directory, tiny_spec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

PROGRAM = """
import dataclasses, json, os, sys
import ray
from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule.attempt import GangAttempt
from orchestrator.schedule.queue.values import Use
from orchestrator.spec.load import load_resolved

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=150 * 2**20)
directory = RunDirectory(sys.argv[1])
arguments = {"run_directory": str(directory.root), "attempt": 1, "tracking_uri": "", "mlflow_run_id": ""}
place = (Use(node="f" * 56, workers=1),)
attempt = GangAttempt(directory, 1, load_resolved(directory.resolved_spec), {}, arguments, place)
attempt.start()
result = attempt.wait(60.0)
print(json.dumps(result and dataclasses.asdict(result)), flush=True)
ray.shutdown()
os._exit(0)  # The thread of an attempt that never ends would keep the process.
"""


def test_workers_that_cannot_start_are_a_failure_of_the_infrastructure(tmp_path: Path) -> None:
    """Ray alone would try again for ever, and the job hold its place."""
    directory = make_run_directory(tmp_path / "tiny", tiny_spec())
    result = json.loads(_run(directory.root, {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "4"}))
    assert result is not None, "the attempt did not end"
    assert result["cause"] == "infrastructure"
    assert "4.0 seconds" in result["message"]


def _run(root: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=200,
    )
    return done.stdout.splitlines()[-1]
