"""Jobs of two people and three priorities on a head and three nodes, while one thing after another is killed.

As many as TEAM_JOBS says, else eight: twenty take ten minutes of two cores.
The order, the places and the reasons are read from what the jobs leave. Nothing may be lost with the queue, a node, a
driver or the MLflow server.
"""

import contextlib
import os
import re
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from end_to_end.user import lines, run, state, steps, wait_until, write_job

from cluster.local.tracking import TrackingServer
from orchestrator.launch.dashboard import nodes_of
from orchestrator.launch.local_nodes import LocalCluster
from orchestrator.launch.lost import TRY_AGAIN_S
from orchestrator.launch.namespaces import Namespaces, why_not
from orchestrator.tracking.client import open_client

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(1500)]
STEPS = 12
LONG_S = 900.0
SPEC = """
name: {name}
recipe: {{target: 'paced.py:Paced', args: {{go: {go}, fast_s: 0.1}}}}
train: {{steps: {steps}}}
batch: {{global_size: 96}}
resources: {{workers: {workers}, placement: {placement}}}
checkpoint: {{every: 4, keep: 1}}
queue: {{owner: {owner}, priority: {priority}}}
tracking: {{uri: '{uri}', experiment: team, system_metrics_every_s: null}}
"""
WORKERS = (1, 2, 1, 3, 1, 2, 1, 4, 1, 2)
NUM_JOBS = int(os.environ.get("TEAM_JOBS", "8"))
JOBS = {f"job-{k:02}": (("ann", "bob")[k % 2], k % 3, WORKERS[k // 2 % len(WORKERS)]) for k in range(NUM_JOBS)}
"""Owner, priority and workers of each."""
ANNS_CPUS = 4
HEARD_WITHIN_S = 3.0
"""Drivers ask the queue once a second, and write down what they hear."""
RANK = r"(first in the queue|first of those that could run|\d+ jobs? ahead)"
REASONS = (
    rf"needs \d+ CPUs?, \d+ free; {RANK}",
    rf"needs \d+ workers of 1 CPU \(\w+\); \d+ fits? now; {RANK}",
    r"needs \d+ CPUs?; owner ann has \d+ of the 4 CPUs of their quota.*",
    r"would delay job-\d\d, which needs .*",
    r"needs .*; job-\d\d is making room",
    r"needs .*; .* are making room",
    r"node \w+ of its place does not answer",
    r"would delay urgent, which needs .*",
    r"the queue has just started and first hears from jobs that run",
    r"the cluster's queue has not answered yet",
    r"needs .* have room for \d+ when empty: it waits for other nodes",
)


@dataclass
class Team:
    """A storage, a cluster and a history that several people share."""

    folder: Path
    cluster: LocalCluster
    server: TrackingServer
    go: Path = field(init=False)

    def __post_init__(self) -> None:
        self.go = self.folder / "go"
        self.storage.mkdir()

    @property
    def storage(self) -> Path:
        return self.folder / "runs"

    @property
    def env(self) -> dict[str, str]:
        return self.cluster.record.environment

    def submit(self, name: str, owner: str, priority: int, workers: int, **fields: Any) -> None:
        values = {"steps": STEPS, "placement": "pack", "uri": self.server.uri, "go": self.go, **fields}
        text = SPEC.format(name=name, owner=owner, priority=priority, workers=workers, **values)
        spec = write_job(self.folder / name, text, "paced.py")
        code, output = run("submit", spec, "--storage", self.storage, env=self.env)
        assert code == 0, output

    def state(self, name: str) -> dict[str, Any]:
        return state(self.storage / name)

    def events(self, name: str, *kinds: str) -> list[dict[str, Any]]:
        return [event for event in lines(self.storage / name / "events.jsonl") if event["event"] in kinds]

    def answers(self, name: str) -> list[dict[str, Any]]:
        """What the queue has said to a job; its submission is an event ``queued`` too, without a reason."""
        return [event for event in self.events(name, "queued", "granted") if "position" in event]

    def of_phase(self, *phases: str) -> list[str]:
        return [name for name in JOBS if self.state(name).get("phase") in phases]


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    with (
        TrackingServer(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlflow") as server,
        LocalCluster(num_nodes=3, cpus_per_node=2, head_cpus=0) as cluster,
    ):
        yield Team(tmp_path, cluster, server)


def test_jobs_of_two_people_while_things_die(team: Team) -> None:
    (team.storage / "queue.yaml").write_text(f"quotas: {{ann: {{cpus: {ANNS_CPUS}}}}}\n")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda name: team.submit(name, *JOBS[name]), JOBS))
    wait_until(lambda: all(team.answers(name) for name in JOBS), "all in the queue", LONG_S)

    # An urgent job is given the place of others, which save a checkpoint and wait again.
    wait_until(lambda: len(team.of_phase("running")) >= 2, "jobs that run", LONG_S)
    team.submit("urgent", "bob", 9, 5)
    wait_until(lambda: team.events("urgent", "granted"), "the urgent job's place", LONG_S)
    team.go.touch()

    (queue,) = [process for process in _processes(team.cluster) if "QueueActor" in _command(process)]
    queue.kill()
    wait_until(lambda: len(team.of_phase("succeeded")) >= NUM_JOBS // 8, "the first jobs", LONG_S)
    team.server.stop(signal.SIGKILL)
    wait_until(lambda: len(team.of_phase("succeeded")) >= NUM_JOBS // 4, "a quarter of the jobs", LONG_S)
    team.server.start()

    # The driver of a job that runs: its records say so before long, and it goes on from its checkpoint.
    wait_until(lambda: team.of_phase("running"), "a job that runs", LONG_S)
    (victim, *_) = team.of_phase("running")
    psutil.Process(team.state(victim)["driver"]["pid"]).kill()
    wait_until(lambda: _status(team, victim) == "failed", f"{victim} to be known as lost", LONG_S)
    assert team.state(victim)["reason"] == "driver_lost"
    code, output = run("resume", victim, "--storage", team.storage, env=team.env)
    assert code == 0, output

    wait_until(lambda: len(team.of_phase("succeeded")) >= NUM_JOBS // 2, "half of the jobs", LONG_S)
    raylet = next(
        p for p in psutil.Process(team.cluster.record.nodes[-1].pid).children(recursive=True) if p.name() == "raylet"
    )
    raylet.kill()

    names = [*JOBS, "urgent"]
    wait_until(lambda: all(team.state(name)["phase"] in ("succeeded", "failed") for name in names), "all", LONG_S)
    messages = {name: team.state(name).get("message") for name in names if team.state(name)["phase"] != "succeeded"}
    assert messages == {}
    assert sum(bool(team.events(name, "preempted")) for name in JOBS) >= 1
    assert not team.state("urgent").get("retries_used")
    _check_places(team, names)
    _check_order(team)
    _check_reasons(team, names)
    _check_history(team, names)


def _processes(cluster: LocalCluster) -> list[psutil.Process]:
    return [child for node in cluster.record.nodes for child in psutil.Process(node.pid).children(recursive=True)]


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def _status(team: Team, name: str) -> str:
    run("status", name, "--storage", team.storage, env=team.env)
    return str(team.state(name)["phase"])


def _check_places(team: Team, names: list[str]) -> None:
    """All workers or none; no node and no quota beyond what it has, at any moment."""
    changes: list[tuple[float, int, str, str, int]] = []
    for name in names:
        held: dict[str, int] = {}
        owner = JOBS.get(name, ("bob",))[0]
        for event in lines(team.storage / name / "events.jsonl"):
            if event["event"] == "granted":
                changes += _released(event["time"], held, owner)
                held = event["nodes"]
                assert sum(held.values()) == event["workers"]
                changes += [(event["time"], 1, owner, node, count) for node, count in held.items()]
            elif event["event"] in ("preempted", "restarting", "driver_lost", "succeeded"):
                # Given back at some moment after a preemption was asked for; never later than the next grant.
                changes += _released(event["time"], held, owner)
                held = {}
    on_node: dict[str, int] = defaultdict(int)
    of_ann = 0
    for _, sign, owner, node, count in sorted(changes):
        on_node[node] += sign * count
        of_ann += sign * count * (owner == "ann")
        assert on_node[node] <= 2
        assert of_ann <= ANNS_CPUS
    assert set(on_node.values()) == {0}


def _released(time: float, held: dict[str, int], owner: str) -> list[tuple[float, int, str, str, int]]:
    return [(time, -1, owner, node, count) for node, count in held.items()]


def _check_order(team: Team) -> None:
    """Of two jobs of one person that need the same, the more urgent or older one goes first."""
    first = {name: team.events(name, "granted")[0]["time"] for name in JOBS}
    waits_since = {name: team.answers(name)[0]["time"] for name in JOBS}

    def rank(name: str) -> tuple[int, float]:
        return (-JOBS[name][1], team.state(name)["created_at"])

    num_compared = 0
    for one in JOBS:
        for other in JOBS:
            alike = (JOBS[one][0], JOBS[one][2]) == (JOBS[other][0], JOBS[other][2])
            if alike and rank(one) < rank(other) and waits_since[one] < first[other]:
                assert first[one] <= first[other] + HEARD_WITHIN_S, (one, other)
                num_compared += 1
    assert num_compared >= NUM_JOBS // 8


def _check_reasons(team: Team, names: list[str]) -> None:
    # A resumed job is queued before anybody knows why it waits.
    told = {event.get("reason") for name in names for event in team.events(name, "queued", "waiting")} - {None}
    unknown = [reason for reason in told if not any(re.fullmatch(pattern, reason) for pattern in REASONS)]
    assert unknown == []
    assert any("ahead" in reason for reason in told)


def _check_history(team: Team, names: list[str]) -> None:
    """Each step of each job once, here and in MLflow, and one run for each job over all its lives.

    What a job could not tell MLflow before its end is told when somebody next looks at the jobs.
    """
    time.sleep(max(0.0, TRY_AGAIN_S - (time.time() - max(team.state(name)["finished_at"] for name in names))))
    code, output = run("list", "--storage", team.storage, env=team.env)
    assert code == 0, output
    client = open_client(team.server.uri)
    runs = client.search_runs([client.get_experiment_by_name("team").experiment_id])
    assert sorted(found.info.run_name for found in runs) == sorted(names)
    for found in runs:
        assert found.info.status == "FINISHED", found.info.run_name
        assert steps(team.storage / found.info.run_name) == list(range(1, STEPS + 1))
        stored = [point.step for point in client.get_metric_history(found.info.run_id, "loss")]
        assert sorted(stored) == list(range(1, STEPS + 1))


def test_nodes_with_addresses_of_their_own(tmp_path: Path) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(f"network namespaces: {reason}")
    with (
        Namespaces(3) as network,
        TrackingServer(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlflow", network.outside) as server,
        LocalCluster(num_nodes=2, cpus_per_node=1, head_cpus=0, namespaces=network) as cluster,
    ):
        team = Team(tmp_path, cluster, server)
        team.go.touch()
        team.submit("spread", "ann", 0, 2, placement="strict_spread")
        wait_until(lambda: team.state("spread")["phase"] == "succeeded", "spread", LONG_S)
        (started,) = team.events("spread", "started")
        assert len(set(started["nodes"])) == 2
        addresses = {node.address for node in nodes_of(cluster.record.address, cluster.record.token) if node.cpus}
        assert addresses == {network.address(number) for number in (1, 2)}
        _check_history(team, ["spread"])
