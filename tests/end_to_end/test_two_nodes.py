"""A head and a second raylet: submit over both, stop in mid-run, resume."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.second_node import SecondNode
from end_to_end.user import lines, run, start, state, steps, wait_until, write_job
from launch.ray_head import TOKEN, RayHead

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
ENV = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
SLOW = """
name: slow
recipe: {target: 'tiny.py:Digits', args: {sleep_s: 0.1}}
train: {steps: 150}
batch: {global_size: 96}
resources: {workers: 2, placement: strict_spread}
checkpoint: {every: 1000}
"""
SCRIPT = """
name: script
script: {path: train.py}
resources: {workers: 2, placement: strict_spread}
tracking: {system_metrics_every_s: null}
"""
TRAIN = """
import os, time
print(*(os.environ[name] for name in "NODE_RANK RANK LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()))
time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    head = RayHead(tmp_path_factory.mktemp("nothing"))
    try:
        head.wait_until_up()
        node = SecondNode(head)
        try:
            wait_until(node.has_raylet, "the second raylet")
            yield head
        finally:
            node.close()
    finally:
        head.close()


def nodes_of(run_directory: Path) -> set[str]:
    """The Ray nodes on which the last attempt's ranks ran."""
    placed = [event for event in lines(run_directory / "events.jsonl") if event["event"] == "started"]
    return set(placed[-1]["nodes"])


def test_the_text_recipe_trains_on_both_nodes(cluster: RayHead, tmp_path: Path) -> None:
    spec = ROOT / "jobs/text/job.yaml"
    short = ["train.steps=12", "resources.workers=2", "resources.placement=strict_spread", "name=text"]
    overrides = [item for text in short for item in ("--set", text)]
    code, output = run(
        "submit", spec, "--address", cluster.address, "--storage", tmp_path / "runs", "--follow", *overrides, env=ENV
    )
    assert code == 0, output
    run_directory = tmp_path / "runs" / "text"
    assert state(run_directory)["phase"] == "succeeded"
    assert len(nodes_of(run_directory)) == 2
    assert (run_directory / "model.safetensors").exists()


def test_stop_leaves_a_checkpoint_and_resume_finishes(cluster: RayHead, tmp_path: Path) -> None:
    spec = write_job(tmp_path / "job", SLOW)
    storage = tmp_path / "runs"
    run_directory = storage / "slow"
    follower = start("submit", spec, "--address", cluster.address, "--storage", storage, "--follow", env=ENV)
    wait_until(lambda: len(steps(run_directory)) >= 20, "20 steps")
    code, output = run("stop", "slow", "--storage", storage, env=ENV)
    assert code == 0, output
    followed, _ = follower.communicate()
    assert follower.returncode == 3, followed
    stopped = state(run_directory)
    assert stopped["phase"] == "stopped"
    step = stopped["step"]
    assert 20 <= step < 150
    assert json.loads((run_directory / "checkpoints" / f"step_{step}" / "manifest.json").read_text())["step"] == step

    code, output = run("resume", "slow", "--storage", storage, "--follow", env=ENV)
    assert code == 0, output
    assert f"resumed from step {step}" in output
    assert state(run_directory)["phase"] == "succeeded"
    assert steps(run_directory) == list(range(1, 151))


def test_a_script_runs_on_both_nodes_and_is_stopped(cluster: RayHead, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "train.py").write_text(TRAIN)
    (tmp_path / "job" / "job.yaml").write_text(SCRIPT)
    storage = tmp_path / "runs"
    logs = [storage / "script" / "logs" / "1" / f"rank_{rank}.log" for rank in (0, 1)]
    code, output = run(
        "submit", tmp_path / "job" / "job.yaml", "--address", cluster.address, "--storage", storage, env=ENV
    )
    assert code == 0, output
    wait_until(lambda: all(log.exists() and log.read_text().endswith("\n") for log in logs), "both scripts")
    first, second = (log.read_text().split() for log in logs)
    # Both raylets have the address of this host, so they are one node to Ray Train, as they would be to torchrun.
    assert [first[:4], second[:4]] == [["0", "0", "0", "2"], ["0", "1", "1", "2"]]
    assert first[4:] == second[4:]
    code, output = run("stop", "script", "--storage", storage, env=ENV)
    assert code == 0, output
    assert "script: stopped; train.py on rank 0 was ended by SIGTERM" in output
    assert state(storage / "script")["phase"] == "stopped"
