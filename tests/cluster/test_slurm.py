"""The Slurm job on a real Slurm of two nodes: it trains on both, is stopped as its time ends, goes on on one."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_definitions import CLUSTER
from end_to_end.user import lines, state, steps, wait_until, write_job
from machines import Machines, need
from slurm import Slurm

from orchestrator.core.errors import STOPPED

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(1500)]
SCRIPT = CLUSTER / "slurm" / "job.sh"
NUM_STEPS = 40
LONG_S = 600.0
"""An idle machine needs a tenth of it."""
SPEC = f"""
name: spread
recipe: {{target: 'paced.py:Paced', args: {{go: GO, slow_s: 2}}}}
train: {{steps: {NUM_STEPS}}}
batch: {{global_size: 96}}
resources: {{workers: 2, placement: spread}}
checkpoint: {{every: null}}
tracking: {{system_metrics_every_s: null}}
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    need("slurmctld", "slurmd", "sbatch", "munged")
    with Machines(("one", "two"), tmp_path / "machines") as machines, Slurm(tmp_path / "slurm", machines) as slurm:
        yield slurm


def submit(slurm: Slurm, folder: Path, num_nodes: int, *arguments: str | Path) -> str:
    """Submit the script with two CPUs, on one node or two; returns the job's number."""
    size = [f"--nodes={num_nodes}", f"--cpus-per-task={2 // num_nodes}", "--time=60", f"--chdir={folder}"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    spec = folder / "job" / "job.yaml"
    return slurm.run("sbatch", "--parsable", *size, SCRIPT, spec, *arguments, PATH=path, OMP_NUM_THREADS="1").strip()


def ended(slurm: Slurm, folder: Path, number: str) -> dict[str, str]:
    """What Slurm says of a job when it has ended, and the job's own words where it fails."""
    wait_until(
        lambda: slurm.job(number)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), f"job {number}", LONG_S
    )
    print((folder / f"orchestrator-{number}.log").read_text())
    return slurm.job(number)


def test_a_job_on_two_nodes_ends_with_its_time_and_goes_on(slurm: Slurm, tmp_path: Path) -> None:
    write_job(tmp_path / "job", SPEC.replace("GO", str(tmp_path / "go")), "paced.py")
    run_directory = tmp_path / "runs" / "spread"

    first = submit(slurm, tmp_path, 2)
    wait_until(lambda: steps(run_directory), "the first step", LONG_S)
    (started,) = [event for event in lines(run_directory / "events.jsonl") if event["event"] == "started"]
    assert len(set(started["nodes"])) == 2
    # Slurm looks at the time twice a minute, and now finds it nearly up.
    slurm.run("scontrol", "update", f"JobId={first}", "TimeLimit=1")
    job = ended(slurm, tmp_path, first)
    wait_until(lambda: not slurm.busy(), "nodes without a process of the job", 30)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", f"{STOPPED}:0")
    assert state(run_directory)["phase"] == "stopped"
    num_done = len(steps(run_directory))
    assert 0 < num_done < NUM_STEPS

    (tmp_path / "go").touch()
    job = ended(slurm, tmp_path, submit(slurm, tmp_path, 1, "--resume"))
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0")
    assert state(run_directory)["phase"] == "succeeded"
    assert steps(run_directory) == list(range(1, NUM_STEPS + 1))
