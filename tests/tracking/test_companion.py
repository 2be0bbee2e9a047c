import os
import subprocess
import sys
import threading

import pytest

from orchestrator.tracking import system_metrics
from orchestrator.tracking.client import open_client
from orchestrator.tracking.companion import Companion
from orchestrator.tracking.run import finish_run, open_run, reopen_run


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module for a companion to run, importable by it although it is in no package."""

    def write(body):
        (tmp_path / "helper.py").write_text(
            "import os, signal, time\nfrom orchestrator.tracking.companion import receive_settings\n"
            f"settings, stopped = receive_settings()\n{body}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        return "helper"

    return write


def test_a_companion_gets_its_settings_and_is_asked_to_stop(module, tmp_path, monkeypatch):
    """Also where the folder it starts in has a file named like a module of the standard library."""
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "json.py").write_text("raise SystemExit('taken for the standard library')\n")
    monkeypatch.chdir(tmp_path / "job")
    body = "stopped.wait()\nopen(settings['file'], 'w').write(settings['text'])"
    companion = Companion(module(body), {"file": str(tmp_path / "answer"), "text": "größe"})
    companion.stop(60)
    assert (tmp_path / "answer").read_text() == "größe"


def test_a_companion_that_does_not_stop_is_killed(module, tmp_path):
    companion = Companion(module("while True: time.sleep(1)"), {})
    process = companion._process
    companion.stop(0.1)
    assert process.returncode == -9
    companion.stop(0.1)


def test_a_companion_that_died_is_no_trouble(module, wait_until):
    companion = Companion(module("raise SystemExit(3)"), {})
    wait_until(lambda: companion._process.poll() is not None)
    companion.stop(60)


@pytest.mark.parametrize("holds_the_pipe", [False, True], ids=["alone", "a-child-holds-the-pipe"])
def test_a_companion_dies_with_its_worker(module, tmp_path, wait_until, holds_the_pipe):
    """Also where a loader process of the worker, which outlives it for a while, inherited the pipe."""
    name = module("open(settings['file'], 'w').write(str(os.getpid()))\nstopped.wait()\nopen(settings['asked'], 'w')")
    worker = f"""
import os, sys, time
from orchestrator.tracking.companion import Companion
sys.path.insert(0, {str(tmp_path)!r})
Companion({name!r}, {{"file": {str(tmp_path / "pid")!r}, "asked": {str(tmp_path / "asked")!r}}})
if {holds_the_pipe} and not (child := os.fork()):
    time.sleep(3600)
print(child if {holds_the_pipe} else 0, flush=True)
time.sleep(3600)
"""
    with subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True) as process:
        holder = int(process.stdout.readline())
        wait_until((tmp_path / "pid").exists)
        wait_until((tmp_path / "pid").read_text)
        process.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text()}"))
    assert not (tmp_path / "asked").exists()
    if holder:
        os.kill(holder, 9)


def test_the_sampling_of_a_node_goes_on_where_the_monitor_ended(sqlite_uri, stored_steps, wait_until, monkeypatch):
    """Steps go on as well, and the name of the node is ours although the environment names another one."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_NODE_ID", "the-same-on-all-nodes")
    run_id = open_run(sqlite_uri, "digits", "digits", {}, {})
    used = "system/10.0.0.1/cpu_utilization_percentage"
    stopped = threading.Event()
    settings = {"node_id": "10.0.0.1", "every_s": 0.05, "stopped": stopped}
    thread = threading.Thread(target=system_metrics.sample, args=(sqlite_uri, run_id), kwargs=settings)
    thread.start()
    try:
        wait_until(lambda: len(stored_steps(sqlite_uri, run_id, used)) >= 3)
        finish_run(sqlite_uri, run_id, "failed")
        before = len(stored_steps(sqlite_uri, run_id, used))
        reopen_run(sqlite_uri, run_id)
        wait_until(lambda: len(stored_steps(sqlite_uri, run_id, used)) >= before + 3)
    finally:
        stopped.set()
        thread.join()
    samples = stored_steps(sqlite_uri, run_id, used)
    assert samples == list(range(len(samples)))
    keys = open_client(sqlite_uri).get_run(run_id).data.metrics
    assert all(key.startswith("system/10.0.0.1/") for key in keys)
