"""Several raylets on this machine, started as a person would: a job trains on two of them, and nothing is left."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from cluster_definitions import CLUSTER, ON_TWO_NODES
from end_to_end.user import lines, run, state, write_job

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(900)]
NODES = CLUSTER / "local" / "nodes.py"


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The script, ended with everything that it started if the test has not done so."""
    command = [sys.executable, NODES, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(120)


@pytest.fixture
def script() -> Iterator[subprocess.Popen[str]]:
    with started("--nodes", "2") as process:
        yield process


def test_a_job_trains_on_two_nodes_and_nothing_is_left(script: subprocess.Popen[str], tmp_path: Path) -> None:
    assert script.stdout is not None
    told = script.stdout.readline()
    found = re.fullmatch(r"export RAY_API_SERVER_ADDRESS=(\S+) RAY_AUTH_MODE=token RAY_AUTH_TOKEN=(\S+)\n", told)
    assert found, told
    environment = {"RAY_API_SERVER_ADDRESS": found[1], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": found[2]}
    code, output = run(
        "submit", write_job(tmp_path / "job", ON_TWO_NODES), "--storage", tmp_path / "runs", "--follow", env=environment
    )
    assert code == 0, output
    assert state(tmp_path / "runs" / "spread")["phase"] == "succeeded"
    (started,) = [e for e in lines(tmp_path / "runs" / "spread" / "events.jsonl") if e["event"] == "started"]
    assert len(set(started["nodes"])) == 2
    # The head offers no CPUs: it has the driver, and workers are on the two others.
    assert cpus_by_node(found[1], found[2]) == [0, 1, 1]

    processes = psutil.Process(script.pid).children(recursive=True)
    assert sum(process.name() == "raylet" for process in processes) == 3
    script.send_signal(signal.SIGINT)
    assert script.wait(120) == 0
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


def cpus_by_node(address: str, token: str) -> list[float]:
    """What each node offers, the least first."""
    request = urllib.request.Request(f"{address}/api/v0/nodes?detail=1", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        nodes = json.load(response)["data"]["result"]["result"]
    return sorted(node["resources_total"].get("CPU", 0) for node in nodes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cpus-per-node", "0"], "--cpus-per-node is 0; it must be at least 1"),
        (["--nodes", "-1"], "--nodes is -1; it must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], message: str) -> None:
    result = subprocess.run([sys.executable, NODES, *arguments], capture_output=True, text=True, check=False)
    assert (result.returncode, message in result.stderr) == (2, True)


def test_a_node_that_ends_ends_the_cluster() -> None:
    with started("--nodes", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("export ")
        started_by_it = psutil.Process(process.pid).children(recursive=True)
        (head,) = psutil.Process(process.pid).children()
        head.kill()
        assert process.wait(60) == 1
        assert process.stderr.read().startswith("node 0 has ended:\n")
        _, alive = psutil.wait_procs(started_by_it, timeout=30)
        assert alive == []
