"""Two submitted jobs and one place: the urgent one gets it, the other saves a checkpoint, waits and loses no step.

And a served job, whose shards need a place beside its workers.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.user import lines, run, start, state, steps, wait_until, write_job
from launch.ray_head import TOKEN, RayHead

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
ENV = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
STEPS = 400
SPEC = """
name: {name}
recipe: {{target: 'paced.py:Paced', args: {{go: {hurry}}}}}
train: {{steps: {steps}}}
batch: {{global_size: 96}}
resources: {{workers: {workers}}}
checkpoint: {{every: 1000}}
retries: {{worker_lost: 0, worker_crash: 0}}
queue: {{owner: {owner}, priority: {priority}}}
tracking: {{system_metrics_every_s: null}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayHead]:
    with RayHead(ROOT) as head:
        yield head


def events(run_directory: Path, *names: str) -> list[dict[str, object]]:
    return [event for event in lines(run_directory / "events.jsonl") if event["event"] in names]


def test_an_urgent_job_takes_the_place_of_one_that_comes_back(cluster: RayHead, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    low, urgent = storage / "low", storage / "urgent"
    storage.mkdir()
    (storage / "queue.yaml").write_text("quotas: {ann: {cpus: 2}, bob: {cpus: 1}}\n")
    to_cluster = ("--address", cluster.address, "--storage", storage)
    hurry = tmp_path / "hurry"

    def job(**fields: object) -> Path:
        text = SPEC.format(hurry=hurry, steps=STEPS, **fields)
        return write_job(tmp_path / str(fields["name"]), text, "paced.py")

    follower = start("submit", job(name="low", owner="ann", priority=0, workers=2), *to_cluster, "--follow", env=ENV)
    wait_until(lambda: len(steps(low)) >= 3, "3 steps")
    code, output = run("submit", job(name="urgent", owner="bob", priority=5, workers=1), *to_cluster, env=ENV)
    assert code == 0, output
    wait_until(lambda: state(urgent).get("phase") in ("placing", "running"), "urgent to have its place")
    wait_until(lambda: state(low)["phase"] == "queued" and state(low)["queue"].get("position") == 1, "low to wait")
    code, output = run("queue", "--storage", storage, "--json", env=ENV)
    assert code == 0, output
    shown = {row["name"]: row for row in json.loads(output)["jobs"]}
    assert (shown["low"]["position"], shown["low"]["owner"], shown["low"]["cpus"]) == (1, "ann", 2)
    assert shown["low"]["reason"] == "needs 2 CPUs, 1 free; first in the queue"
    assert (shown["urgent"]["position"], shown["urgent"]["priority"]) == (0, 5)
    hurry.touch()

    output, _ = follower.communicate()
    assert follower.returncode == 0, output
    assert state(urgent)["phase"] == state(low)["phase"] == "succeeded"
    # Each step once, from where it had stopped, and no restart was taken from a budget.
    assert steps(low) == list(range(1, STEPS + 1))
    (preempted,), (resumed,) = events(low, "preempted"), events(low, "resumed")
    assert preempted["by"] == "urgent (priority 5)"
    assert preempted["step"] <= resumed["step"] < STEPS
    assert state(low)["attempts"] == 2
    assert not state(low).get("retries_used")
    assert "makes room for urgent (priority 5)" in output
    granted = events(low, "granted")
    assert len(granted) == 2
    (urgents,) = events(urgent, "granted")
    assert preempted["time"] < urgents["time"] < granted[1]["time"]
    assert not (low / "preempt_requested").exists()


def test_a_served_job_gets_a_place_for_its_shard_too(cluster: RayHead, tmp_path: Path) -> None:
    served = tmp_path / "runs" / "served"
    text = """
name: served
recipe: {target: 'tiny.py:Digits'}
train: {steps: 4}
exchange: {name: coded, scheme: uncoded, cpus_per_shard: 1}
tracking: {system_metrics_every_s: null}
"""
    to_cluster = ("--address", cluster.address, "--storage", tmp_path / "runs", "--follow")
    code, output = run("submit", write_job(tmp_path / "job", text), *to_cluster, env=ENV)
    assert code == 0, output
    assert steps(served) == [1, 2, 3, 4]
    (granted,) = events(served, "granted")
    assert (granted["workers"], granted["cpus"]) == (1, 2)
