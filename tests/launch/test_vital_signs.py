"""What is known of a driver when its cluster cannot tell. Real processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.processes import Liveness, this_process
from orchestrator.launch.vital_signs import unknown_to_cluster, without_cluster

ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": 0.0}


@pytest.fixture
def job(prepared) -> RunDirectory:
    return prepared.run_directory


@pytest.fixture
def sleeper() -> Iterator[dict[str, Any]]:
    """The record of a process that lives until the test ends."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield {**this_process(), "pid": child.pid, "started": psutil.Process(child.pid).create_time()}
        child.kill()


@pytest.fixture
def ended() -> dict[str, Any]:
    """The record of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return {**this_process(), "pid": child.pid}


def be_silent(job: RunDirectory, seconds: float) -> None:
    then = time.time() - seconds
    for file in (job.state_file, job.events_file):
        os.utime(file, (then, then))


def test_a_driver_that_lives_here_lives_whatever_its_cluster_says(job, sleeper):
    state = job.update_state(phase="running", driver=sleeper)
    be_silent(job, 3600)
    for look in (without_cluster, unknown_to_cluster):
        vitals = look(job, state, "the cluster is gone.")
        assert vitals.liveness is Liveness.ALIVE
        assert f"but its driver (pid {sleeper['pid']} on {sleeper['host']}) still runs" in vitals.explanation


def test_a_driver_that_ended_here_is_gone_at_once(job, ended):
    state = job.update_state(phase="running", driver=ended)
    for look in (without_cluster, unknown_to_cluster):
        vitals = look(job, state, "the cluster is gone.")
        assert vitals.liveness is Liveness.GONE
        assert f"and its driver (pid {ended['pid']} on {ended['host']}) has ended" in vitals.explanation


def test_a_driver_elsewhere_is_judged_by_its_silence(job):
    state = job.update_state(phase="running", driver=ELSEWHERE)
    assert without_cluster(job, state, "no answer.").liveness is Liveness.UNKNOWN
    be_silent(job, 660)
    vitals = without_cluster(job, state, "no answer.")
    assert (vitals.liveness, vitals.explanation) == (
        Liveness.GONE,
        "no answer, and the job has written nothing for 11 minutes",
    )


def test_a_cluster_that_knows_nothing_of_a_driver_elsewhere_is_believed(job):
    state = job.update_state(phase="running", driver=ELSEWHERE)
    vitals = unknown_to_cluster(job, state, "the cluster does not know it")
    assert (vitals.liveness, vitals.explanation) == (Liveness.GONE, "the cluster does not know it any more")


def test_a_submission_on_its_way_has_as_long_as_its_command_lives(job, sleeper, ended):
    state = job.update_state(submitter=sleeper)
    be_silent(job, 120)
    assert unknown_to_cluster(job, state, "not known").liveness is Liveness.UNKNOWN
    state = job.update_state(submitter=ended)
    assert unknown_to_cluster(job, state, "not known").liveness is Liveness.UNKNOWN
    be_silent(job, 120)
    assert unknown_to_cluster(job, state, "not known").liveness is Liveness.GONE
