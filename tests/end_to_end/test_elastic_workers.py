"""1 -> 2 -> 4 -> 1 workers on a real cluster, and the training is that of a fixed job.

A batch that grows asks for more workers, nodes join and lose their power.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from end_to_end.second_node import SecondNode
from end_to_end.user import lines, run, start, state, steps, wait_until, write_job
from launch.ray_head import TOKEN, RayHead
from safetensors.torch import load_file

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
ENV = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
NUM_TRAIN, STEPS, PER_CODE = 60, 600, 6
SMALL, LARGE = 4, 20
"""Samples of a step in the first epoch, and from then on."""
RECIPE = f"""
import time
from pathlib import Path
from tiny import Digits

class Counted(Digits):
    def __init__(self, hurry: str) -> None:
        super().__init__(num_train={NUM_TRAIN})
        self.hurry = Path(hurry)

    def loss(self, model, batch):
        time.sleep(0 if self.hurry.exists() else 0.2)
        loss, metrics = super().loss(model, batch)
        # How often each sample is in the step: two bits each, so few samples to a number that float32 keeps it exactly.
        ids = batch["id"]
        for code in range({NUM_TRAIN // PER_CODE}):
            metrics[f"seen{{code}}"] = ((ids // {PER_CODE} == code) * 4.0 ** (ids % {PER_CODE})).mean()
        return loss, metrics
"""
SPEC = """
name: {name}
recipe: {{target: 'counted.py:Counted', args: {{hurry: {hurry}}}}}
train: {{steps: {steps}}}
batch: {{global_size: {small}, micro_size: 5, controller: {{name: schedule, sizes: '{num_train}:{large}'}}}}
optimizer: {{name: sgd, lr: 0.1, momentum: 0.9}}
resources: {{workers: {workers}}}
checkpoint: {{every: 10}}
retries: {{worker_lost: 1, worker_crash: 0}}
tracking: {{system_metrics_every_s: null}}
"""


@pytest.fixture
def cluster() -> Iterator[RayHead]:
    """A head with room for one worker, whose queue lets jobs grow after 3 s."""
    head = RayHead(ROOT, num_cpus=1)
    try:
        head.wait_until_up()
        submit = [Path(sys.executable).with_name("ray"), "job", "submit", "--address", head.address, "--"]
        script = Path(__file__).with_name("quick_queue.py")
        subprocess.run(
            [*submit, sys.executable, script], env={**os.environ, **ENV}, check=True, stdout=subprocess.DEVNULL
        )
        yield head
    finally:
        head.close()


def samples_of(line: dict[str, Any]) -> list[int]:
    """The samples of a logged step, each as often as it was in it."""
    found: list[int] = []
    for code in range(NUM_TRAIN // PER_CODE):
        number = line[f"seen{code}"] * line["global_size"]
        assert abs(number - round(number)) < 0.1
        for place in range(PER_CODE):
            found += [PER_CODE * code + place] * (round(number) // 4**place % 4)
    return found


def num_steps_on(run_directory: Path, workers: int) -> int:
    return sum(line.get("workers") == workers for line in lines(run_directory / "metrics.jsonl"))


def test_one_then_two_then_four_then_one_worker_train_as_two_would(cluster: RayHead, tmp_path: Path) -> None:
    storage, hurry = tmp_path / "runs", tmp_path / "hurry"

    def job(name: str, workers: str) -> Path:
        sizes = {"steps": STEPS, "small": SMALL, "large": LARGE, "num_train": NUM_TRAIN}
        spec = write_job(tmp_path / name, SPEC.format(name=name, workers=workers, hurry=hurry, **sizes))
        spec.with_name("counted.py").write_text(RECIPE)
        return spec

    elastic, nodes = storage / "elastic", [SecondNode(cluster, num_cpus=1)]
    try:
        wait_until(nodes[0].has_raylet, "the second node")
        spec = job("elastic", "{min: 1, max: 4, samples_per_worker: 5}")
        follower = start("submit", spec, "--address", cluster.address, "--storage", storage, "--follow", env=ENV)
        wait_until(lambda: num_steps_on(elastic, 2) >= 3, "steps on two workers")
        nodes.append(SecondNode(cluster, num_cpus=2))
        wait_until(lambda: num_steps_on(elastic, 4) >= 12, "steps on four workers, and a checkpoint")
        before = num_steps_on(elastic, 1)
        for node in nodes:
            node.kill()
        wait_until(lambda: num_steps_on(elastic, 1) > before, "a step on one worker")
        _, shown = run("status", "elastic", "--storage", storage, env=ENV)
        hurry.touch()
        output, _ = follower.communicate()
        assert follower.returncode == 0, output
    finally:
        for node in nodes:
            node.close()
    code, log = run("run", job("fixed", "2"), "--storage", storage)
    assert code == 0, log
    compare(elastic, storage / "fixed")

    events = list(lines(elastic / "events.jsonl"))
    wanted = [event for event in events if event["event"] == "workers_wanted"]
    assert [(event["wanted"], event["workers"], event["batch"]) for event in wanted] == [(1, 1, SMALL), (4, 1, LARGE)]
    resized = [event for event in events if event["event"] == "resized"]
    assert [(event["from"], event["to"]) for event in resized] == [(1, 2), (2, 4), (4, 1)]
    assert [event["why"] for event in resized[:2]] == ["4 asked for"] * 2
    assert resized[0]["step"] >= wanted[1]["step"]  # there was room for two from the start
    assert "disappeared" in resized[2]["why"]
    resumed = [event["step"] for event in events if event["event"] == "resumed"]
    assert resumed[:2] == [event["step"] for event in resized[:2]]  # no step was lost to growth
    assert resumed[2] <= resized[2]["step"]
    assert state(elastic)["retries_used"] == {"worker_lost": 1}
    assert "1 (asks for 4) of 1 to 4" in shown
    assert "asks for 4 workers for steps of 20 samples" in output
    assert "goes on with 4 workers in place of 2: 4 asked for" in output


def compare(elastic: Path, fixed: Path) -> None:
    """Equal weights, equal samples in each step, and each sample once in each epoch."""
    assert steps(elastic) == steps(fixed) == list(range(1, STEPS + 1))
    got, expected = ([samples_of(line) for line in lines(one / "metrics.jsonl")] for one in (elastic, fixed))
    assert got == expected
    epochs: dict[int, list[int]] = {}
    num_seen = 0
    for step in got:
        epochs.setdefault(num_seen // NUM_TRAIN, []).extend(step)
        num_seen += len(step)
    assert len(epochs) == 1 + (STEPS - NUM_TRAIN // SMALL) * LARGE // NUM_TRAIN
    assert all(sorted(samples) == list(range(NUM_TRAIN)) for samples in epochs.values())
    weights, reference = (load_file(one / "model.safetensors") for one in (elastic, fixed))
    assert weights.keys() == reference.keys()
    for name, tensor in reference.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0.0, atol=1e-4, msg=name)
