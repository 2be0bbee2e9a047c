"""An asynchronous job through the command line while its workers and a shard are killed: every sample counts once."""

import random
import time
from pathlib import Path

import pytest
from end_to_end.test_served import events, processes
from end_to_end.user import lines, start, state, steps, wait_until, write_job

from orchestrator.spec.push_order import read_order

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(600)]
NUM_SAMPLES = 5 * 1500
SPEC = """
name: tiny
recipe: {target: 'tiny.py:Digits', args: {sleep_s: 0.05}}
train: {epochs: 5, eval_every: 200}
batch: {global_size: 16}
optimizer: {name: sgd, lr: 0.05, momentum: 0.5}
schedule: {name: cosine}
resources: {workers: 4, cpus_per_worker: 0.4}
checkpoint: {every: 40}
exchange: {name: asynchronous, shards: 2, cpus_per_shard: 0.2}
"""


def test_every_sample_of_every_epoch_is_accepted_once_in_a_storm(tmp_path: Path) -> None:
    run_directory = tmp_path / "runs" / "tiny"
    process = start("run", write_job(tmp_path / "job", SPEC), "--storage", tmp_path / "runs")
    wait_until(lambda: len(steps(run_directory)) >= 3, "3 steps")
    choice = random.Random(0)
    num_killed, killed_shard = 0, False
    while process.poll() is None and len(steps(run_directory)) < 400:
        if (
            len(events(run_directory, "worker_replaced")) == num_killed
            and len(workers := processes(run_directory, "Worker")) == 4
        ):
            choice.choice(workers).kill()
            num_killed += 1
        if not killed_shard and len(steps(run_directory)) > 120:
            processes(run_directory, "Shard")[1].kill()
            killed_shard = True
            wait_until(
                lambda: state(run_directory)["attempts"] == 2 and state(run_directory)["phase"] == "running",
                "attempt 2",
            )
            num_killed = len(events(run_directory, "worker_replaced"))
        time.sleep(0.1)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert killed_shard
    assert state(run_directory)["attempts"] == 2  # the shard's death; no worker's
    assert len(events(run_directory, "worker_lost")) >= 2
    order = read_order(run_directory / "pushes.csv")
    assert sorted(push.chunk for push in order) == list(range(-(-NUM_SAMPLES // 16)))
    metrics = lines(run_directory / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, len(order) + 1))
    assert metrics[-1]["samples"] == NUM_SAMPLES
    assert metrics[-1]["eval/accuracy"] > 0.7
