"""The script that a job runs is a plain one: torchrun starts it, and python alone goes on from its checkpoint."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.spec.job import ScriptJobSpec
from orchestrator.spec.load import load_spec

FOLDER = Path(__file__).parents[2] / "jobs" / "script"


def test_the_spec_runs_this_script_on_two_workers() -> None:
    spec = load_spec(FOLDER / "job.yaml").spec
    assert isinstance(spec, ScriptJobSpec)
    assert (spec.name, spec.script.path, spec.script.args) == ("digits-script", "train.py", ("--epochs", 20))
    assert spec.resources.workers == 2


@pytest.mark.distributed
@pytest.mark.timeout(300)
def test_it_runs_under_torchrun_and_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        process = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    script = str(FOLDER / "train.py")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert "epochs 0 to 2 on 2 ranks" in run(*torchrun, script, "--epochs", "3")
    assert "epochs 3 to 3 on 1 ranks" in run(script, "--epochs", "4")
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    second, first = client.search_runs(["0"])
    history = [client.get_metric_history(each.info.run_id, "eval_accuracy") for each in (first, second)]
    assert [[point.step for point in points] for points in history] == [[0, 1, 2], [3]]
    assert history[1][0].value > 0.9
