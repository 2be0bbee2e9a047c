import errno
import json
import logging
import math
import os

import pytest

from orchestrator.core.run_directory import read_json_lines
from orchestrator.tracking import tracker as tracker_module
from orchestrator.tracking.client import open_client
from orchestrator.tracking.run import open_run
from orchestrator.tracking.tracker import NullTracker, RunTracker


class NoCompanion:
    """Stands in where a test is about the file alone."""

    def stop(self, timeout_s):
        pass


@pytest.fixture
def file_tracker(run_directory, monkeypatch):
    monkeypatch.setattr(tracker_module, "start_follower", lambda *arguments: NoCompanion())
    return RunTracker(run_directory, "http://127.0.0.1:9", "run")


def lines(run_directory):
    return list(read_json_lines(run_directory.metrics_file))


def test_what_is_logged_reaches_mlflow_by_the_time_the_tracker_closes(run_directory, sqlite_uri, stored_steps):
    run_id = open_run(sqlite_uri, "digits", "digits", {}, {})
    tracker = RunTracker(run_directory, sqlite_uri, run_id)
    for step in range(1, 101):
        tracker.log(step, {"loss": math.nan if step == 50 else 1 / step, "samples": 128 * step})
    tracker.close(timeout_s=100)
    assert stored_steps(sqlite_uri, run_id) == stored_steps(sqlite_uri, run_id, "samples") == list(range(1, 101))
    assert [line["step"] for line in lines(run_directory)] == list(range(1, 101))
    at_50 = next(m for m in open_client(sqlite_uri).get_metric_history(run_id, "loss") if m.step == 50)
    assert math.isnan(at_50.value)
    assert not run_directory.events_file.exists()


def test_every_line_is_in_the_file_when_log_returns(run_directory, file_tracker):
    for step in range(1, 4):
        file_tracker.log(step, {"loss": 0.5})
        assert [line["step"] for line in lines(run_directory)] == list(range(1, step + 1))


def test_a_tracker_begins_behind_a_half_line(run_directory, monkeypatch):
    monkeypatch.setattr(tracker_module, "start_follower", lambda *arguments: NoCompanion())
    run_directory.metrics_file.write_bytes(b'{"step": 1, "time": 1.0}\n{"step": 2, "ti')
    RunTracker(run_directory, "http://127.0.0.1:9", "run").log(2, {"loss": 0.5})
    assert [line["step"] for line in lines(run_directory)] == [1, 2]


def test_events_go_to_their_file_as_strict_json(run_directory, file_tracker):
    file_tracker.event("batch_grown", {"to": 256, "noise_scale": math.inf, "path": run_directory.root})
    line = json.loads(run_directory.events_file.read_text(), parse_constant=pytest.fail)
    assert (line["event"], line["to"], line["noise_scale"]) == ("batch_grown", 256, "Infinity")
    assert line["path"] == str(run_directory.root)


def test_nothing_raises_whatever_is_logged(run_directory, file_tracker, caplog):
    class Odd:
        def __float__(self):
            raise RuntimeError("two elements")

        def __str__(self):
            return "odd"

    file_tracker.log(1, {"loss": Odd()})
    file_tracker.log("not a step", {"loss": 1.0})
    file_tracker.event("odd", None)
    file_tracker.close()
    with caplog.at_level(logging.WARNING):
        file_tracker.log(2, {"loss": 1.0})
    file_tracker.close()
    assert [(line["step"], line["loss"]) for line in lines(run_directory)] == [(1, "odd")]


def test_a_full_disk_leaves_no_half_line(run_directory, file_tracker, monkeypatch, caplog):
    write = os.write

    def half(file, line):
        return write(file, line[: len(line) // 2])

    def full(file, line):
        raise OSError(errno.ENOSPC, "No space left on device")

    file_tracker.log(1, {"loss": 0.5})
    for broken in (half, full):
        with monkeypatch.context() as patched:
            patched.setattr(tracker_module.os, "write", broken)
            file_tracker.log(2, {"loss": 0.5})
    file_tracker.log(3, {"loss": 0.5})
    assert [line["step"] for line in lines(run_directory)] == [1, 3]
    assert caplog.text.count("metrics of step 2 cannot be written") == 1


def test_the_job_goes_on_without_its_companion(run_directory, monkeypatch, caplog):
    monkeypatch.setattr("orchestrator.tracking.companion.sys.executable", "/nowhere/python")
    tracker = RunTracker(run_directory, "http://127.0.0.1:9", "run")
    tracker.log(1, {"loss": 0.5})
    tracker.close()
    assert [line["step"] for line in lines(run_directory)] == [1]
    assert "orchestrator.tracking.follow cannot be started" in caplog.text


def test_the_null_tracker_keeps_nothing(run_directory):
    tracker = NullTracker()
    tracker.log(1, {"loss": 0.5})
    tracker.event("placed", {})
    tracker.close()
    assert list(run_directory.root.iterdir()) == []
