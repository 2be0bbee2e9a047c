"""Drivers that are child processes: real ones, which train nothing."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import read_json_lines
from orchestrator.launch.backends import backend_of
from orchestrator.launch.local import start_local
from orchestrator.launch.prepare import prepare, prepare_resume


@pytest.fixture
def job(prepared):
    return prepared.run_directory


def test_a_driver_succeeds(prepared, job, standin):
    standin("succeed")
    with start_local(prepared) as driver:
        assert driver.wait() == 0
    assert job.read_state()["phase"] == "succeeded"
    assert job.read_state()["backend"] == {"kind": "local"}


def test_a_driver_stands_in_the_code_and_logs_both_streams(prepared, job, standin):
    standin("succeed")
    with start_local(prepared) as driver:
        driver.wait()
        log = driver.log_file.read_text()
    assert f"cwd {job.code}" in log
    assert "and an error line" in log


def test_the_log_of_a_resumed_job_goes_on(prepared, job, standin):
    for _ in range(2):
        standin("crash")
        with start_local(prepared) as driver:
            driver.wait()
        prepared = prepare_resume(job)
    assert job.driver_log.read_text().count("behavior crash") == 2


def test_the_environment_of_the_job_reaches_the_driver(load, storage, standin):
    standin("succeed")
    loaded = load("env: {STANDIN_NULL: null, STANDIN: crash}\n")
    environ = {**os.environ, "STANDIN_NULL": "supplied"}
    with start_local(prepare(loaded, storage, environ=environ), environ) as driver:
        assert driver.wait() == 7
        assert "behavior crash" in driver.log_file.read_text()
        assert "STANDIN_NULL=supplied" in driver.log_file.read_text()


def test_a_missing_value_starts_nothing(load, storage, standin):
    prepared = prepare(load("env: {STANDIN_NULL: null}\n"), storage, environ={"STANDIN_NULL": "x"})
    with pytest.raises(UsageError, match=r"env\.STANDIN_NULL"):
        start_local(prepared, {})


def test_files_of_the_job_do_not_shadow_the_standard_library(load, storage, standin):
    standin("succeed")
    loaded = load()
    (loaded.folder / "signal.py").write_text("raise SystemExit('shadowed')")
    with start_local(prepare(loaded, storage)) as driver:
        assert driver.wait() == 0


def test_an_interrupt_stops_gracefully(prepared, job, standin, wait_for):
    standin("wait")
    with start_local(prepared) as driver:
        wait_for(lambda: job.read_state()["driver"])
        assert driver.poll() is None
        driver.interrupt()
        assert driver.wait() == 3
        driver.interrupt()  # after the end it is nobody's
    assert job.read_state()["phase"] == "stopped"


def test_a_driver_without_a_last_word_fails_the_job(prepared, job, standin):
    standin("crash")
    with start_local(prepared) as driver:
        assert driver.wait() == 7
    state = job.read_state()
    assert (state["phase"], state["reason"]) == ("failed", "driver_lost")
    assert "ended with exit code 7 and without a last word" in state["message"]
    assert [event["event"] for event in read_json_lines(job.events_file)] == ["queued", "driver_lost"]


def test_a_driver_that_is_killed_fails_the_job(prepared, job, standin, wait_for):
    standin("hang")
    with start_local(prepared) as driver:
        wait_for(lambda: job.read_state()["driver"])
        os.kill(driver.pid, signal.SIGKILL)
        assert driver.wait() == 1
    assert "was ended by SIGKILL" in job.read_state()["message"]


def test_waiting_has_a_limit(prepared, standin):
    standin("hang")
    with start_local(prepared) as driver, pytest.raises(TimeoutError, match="tiny still runs after"):
        driver.wait(0.1)


@pytest.mark.parametrize("behavior", ["hang", "deaf"])
def test_kill_stops_the_job_at_once(behavior, prepared, job, standin):
    standin(behavior)
    with start_local(prepared) as driver:
        driver.kill()
        assert driver.wait() == 3
    assert job.read_state()["phase"] == "stopped"


def test_leaving_the_block_leaves_no_driver(prepared, job, standin, wait_for):
    standin("hang")
    with start_local(prepared) as driver:
        wait_for(lambda: job.read_state()["driver"])
    assert not psutil.pid_exists(driver.pid)


def test_a_driver_ends_with_the_command_that_runs_it(prepared, job, standin, wait_for):
    """Even where that command is killed without a chance to say so."""
    standin("hang")
    script = f"""
        from pathlib import Path
        from orchestrator.core.run_directory import RunDirectory
        from orchestrator.launch import local
        from orchestrator.launch.prepare import PreparedJob
        from orchestrator.spec.load import load_resolved
        job = RunDirectory({str(job.root)!r})
        local.DRIVER_MODULE = "standin_driver"
        driver = local.start_local(
            PreparedJob(run_directory=job, spec=load_resolved(job.resolved_spec), resumed=False)
        )
        driver.wait()
    """
    command = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=Path.cwd())
    wait_for(lambda: job.read_state()["driver"])
    pid = job.read_state()["driver"]["pid"]
    command.kill()
    command.wait()
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_logs_are_followed_to_the_end(prepared, job, standin, wait_for):
    standin("wait")
    with start_local(prepared) as driver:
        backend = backend_of(job.read_state())
        pieces = backend.logs(job, job.read_state(), follow=True)
        first = next(pieces)
        wait_for(lambda: job.read_state()["driver"])
        driver.interrupt()
        rest = list(pieces)
    assert "behavior wait" in first
    assert "stopping" in "".join([first, *rest])
    assert "".join(backend.logs(job, job.read_state(), follow=False)) == "".join([first, *rest])


def test_a_job_without_a_log_has_no_pieces(prepared, job):
    assert list(backend_of({}).logs(job, job.read_state(), follow=False)) == []
