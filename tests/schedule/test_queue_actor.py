"""The queue on a real cluster of two raylets: its own death, a driver's, a node's, and room for a more urgent job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]
PROGRAM = Path(__file__).with_name("queue_on_ray.py")


@pytest.fixture(scope="module")
def happened() -> dict[str, Any]:
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    ran = subprocess.run([sys.executable, PROGRAM], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-5000:]
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


def most_at_once(jobs: list[dict[str, Any]]) -> int:
    """Most workers of these jobs that ran at the same time."""
    return max(
        sum(job["workers"] for job in jobs if job["started"] <= moment < job["ended"])
        for moment in (job["started"] for job in jobs)
    )


def test_all_jobs_run_once_where_the_queue_said_though_it_died_twice(happened: dict[str, Any]) -> None:
    jobs = happened["eight_jobs"]
    assert sorted(job["name"] for job in jobs) == ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "b3"]
    for job in jobs:
        assert sorted(job["ran_on"]) == sorted(job["granted"])
    # The most urgent go first, by the time of their coming; the others start after the queue has died once.
    assert [job["name"] for job in sorted(jobs, key=lambda job: job["started"])][:2] == ["a2", "b2"]
    assert most_at_once(jobs) <= 4
    assert most_at_once([job for job in jobs if job["owner"] == "ann"]) <= 2


def test_an_answer_that_a_job_waits_is_in_words(happened: dict[str, Any]) -> None:
    assert happened["killed_driver"]["reason"] == "needs 4 CPUs, 0 free; first in the queue"


def test_room_is_asked_for_given_and_taken(happened: dict[str, Any]) -> None:
    assert happened["preemption"] == {"asked_by": "high", "position": 1}


def test_a_part_of_a_place_is_kept_and_grows_again(happened: dict[str, Any]) -> None:
    assert happened["elasticity"] == {"places": [4, 2, 4, 1, 3], "keeps_its_nodes": True}


def test_a_lost_node_ends_a_place(happened: dict[str, Any]) -> None:
    assert happened["lost_node"]["reason"] == (
        "needs 4 workers of 1 CPU (pack); the one node that is there has room for 2 when empty: "
        "it waits for other nodes"
    )


def test_the_queue_outlives_the_driver_that_started_it(happened: dict[str, Any]) -> None:
    assert happened["is_detached"]
