"""Each logged step is in MLflow once, whatever died in between."""

import os
import signal
import subprocess
import sys

import pytest

from orchestrator.core.run_directory import read_json_lines
from orchestrator.tracking.client import open_client
from orchestrator.tracking.cursor import Cursor
from orchestrator.tracking.metrics_file import encode_line, trim_metrics
from orchestrator.tracking.run import finish_run, open_run
from orchestrator.tracking.sender import MAX_POINTS, MetricsSender, replay


@pytest.fixture
def run_id(sqlite_uri):
    return open_run(sqlite_uri, "digits", "digits", {}, {})


def write(run_directory, steps, time_s=1.0, **metrics):
    with run_directory.metrics_file.open("ab") as stream:
        for step in steps:
            stream.write(encode_line(step, time_s + step, metrics or {"loss": 1 / step}))


def test_replay_sends_everything_and_remembers_it(run_directory, sqlite_uri, run_id, stored_steps):
    write(run_directory, range(1, 1201))
    assert replay(run_directory, sqlite_uri, run_id, 60) == 0
    assert stored_steps(sqlite_uri, run_id) == list(range(1, 1201))
    size = run_directory.metrics_file.stat().st_size
    assert Cursor.load(run_directory) == Cursor(run_id=run_id, offset=size, step=1200)
    point = open_client(sqlite_uri).get_metric_history(run_id, "loss")[3]
    assert (point.step, point.value, point.timestamp) == (4, 0.25, 5000)


def test_one_line_may_hold_more_than_one_request_takes(run_directory, sqlite_uri, run_id):
    write(run_directory, [1], **{f"layer_{index}": index for index in range(2 * MAX_POINTS + 1)})
    assert replay(run_directory, sqlite_uri, run_id, 60) == 0
    assert len(open_client(sqlite_uri).get_run(run_id).data.metrics) == 2 * MAX_POINTS + 1


def test_two_lines_of_one_step_are_both_sent(run_directory, sqlite_uri, run_id, stored_steps):
    sender = MetricsSender(run_directory, sqlite_uri, run_id)
    write(run_directory, [1, 2])
    assert sender.send_next()
    write(run_directory, [2], eval_loss=0.5)
    assert sender.send_next()
    assert not sender.send_next()
    assert stored_steps(sqlite_uri, run_id) == [1, 2]
    assert stored_steps(sqlite_uri, run_id, "eval_loss") == [2]


CRASH_BEFORE_ACKNOWLEDGMENT = """
import os, signal, sys
from orchestrator.core.run_directory import RunDirectory
from orchestrator.tracking.cursor import Cursor
from orchestrator.tracking.sender import MetricsSender

root, uri, run_id = sys.argv[1:]
Cursor.save = lambda self, run_directory: os.kill(os.getpid(), signal.SIGKILL)
MetricsSender(RunDirectory(root), uri, run_id).send_next()
"""


def crash_after_sending(run_directory, uri, run_id):
    code = [sys.executable, "-c", CRASH_BEFORE_ACKNOWLEDGMENT, run_directory.root, uri, run_id]
    assert subprocess.run(code, check=False).returncode == -signal.SIGKILL
    assert not Cursor.path(run_directory).exists()


def test_a_crash_between_sending_and_acknowledgment_repeats_nothing(run_directory, sqlite_uri, run_id, stored_steps):
    """Not even where the steps were run again in between, at another time and with other values."""
    write(run_directory, range(1, 21))
    crash_after_sending(run_directory, sqlite_uri, run_id)
    assert stored_steps(sqlite_uri, run_id) == list(range(1, 21))

    assert trim_metrics(run_directory, 5) == 15
    write(run_directory, range(6, 31), time_s=1000.0, loss=0.5)
    assert replay(run_directory, sqlite_uri, run_id, 60) == 0
    assert stored_steps(sqlite_uri, run_id) == list(range(1, 31))


@pytest.mark.parametrize("arrives", [True, False])
def test_a_request_that_failed_loses_and_repeats_nothing(
    run_directory, sqlite_uri, run_id, stored_steps, monkeypatch, arrives
):
    """Whether the request or only its answer was lost; the lines are written again before the next try."""
    from mlflow import MlflowClient

    log_batch = MlflowClient.log_batch

    def fail(*args, **kwargs):
        if arrives:
            log_batch(*args, **kwargs)
        raise ConnectionError("lost")

    sender = MetricsSender(run_directory, sqlite_uri, run_id)
    write(run_directory, [1])
    assert sender.send_next()
    write(run_directory, range(2, 11))
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_batch", fail)
        with pytest.raises(ConnectionError):
            sender.send_next()
    trim_metrics(run_directory, 1)
    write(run_directory, range(2, 16), time_s=1000.0, loss=0.5)
    while sender.send_next():
        pass
    assert stored_steps(sqlite_uri, run_id) == list(range(1, 16))


def test_two_senders_at_once_repeat_nothing(run_directory, sqlite_uri, run_id, stored_steps):
    write(run_directory, [1])
    senders = [MetricsSender(run_directory, sqlite_uri, run_id) for _ in range(2)]
    assert all(sender.send_next() for sender in senders)
    write(run_directory, range(2, 1200))
    for sender in senders * 3:
        sender.send_next()
    assert stored_steps(sqlite_uri, run_id) == list(range(1, 1200))


def test_a_new_run_gets_everything(run_directory, sqlite_uri, run_id, stored_steps):
    write(run_directory, [1, 2])
    assert replay(run_directory, sqlite_uri, run_id, 60) == 0
    second = open_run(sqlite_uri, "digits", "copy", {}, {})
    assert replay(run_directory, sqlite_uri, second, 60) == 0
    assert stored_steps(sqlite_uri, second) == [1, 2]


def test_a_cursor_that_does_not_fit_the_file_costs_nothing(run_directory, sqlite_uri, run_id, stored_steps):
    write(run_directory, [1, 2, 3])
    assert replay(run_directory, sqlite_uri, run_id, 60) == 0
    Cursor.load(run_directory).advanced(run_directory.metrics_file.stat().st_size + 20, 9).save(run_directory)
    write(run_directory, [4, 5])
    assert replay(run_directory, sqlite_uri, run_id, 60) == 0
    assert stored_steps(sqlite_uri, run_id) == [1, 2, 3, 4, 5]


def test_a_finished_run_still_takes_what_was_left(run_directory, sqlite_uri, run_id, stored_steps):
    write(run_directory, [1, 2, 3])
    finish_run(sqlite_uri, run_id, "failed")
    assert replay(run_directory, sqlite_uri, run_id, 60) == 0
    assert stored_steps(sqlite_uri, run_id) == [1, 2, 3]
    assert open_client(sqlite_uri).get_run(run_id).info.status == "FAILED"


def test_replay_gives_up_in_time_and_says_how_much_is_left(run_directory, caplog):
    write(run_directory, [1, 2, 3])
    assert replay(run_directory, "http://127.0.0.1:9", "run", 0.3) == 3
    assert "MLflow at http://127.0.0.1:9 does not answer" in caplog.text


def test_a_run_that_is_gone_is_survived(run_directory, sqlite_uri, run_id, caplog):
    write(run_directory, [1, 2, 3])
    assert replay(run_directory, sqlite_uri, "0" * 32, 0.3) == 3
    assert "0" * 32 in caplog.text


TRAIN = """
import sys, time
from orchestrator.core.run_directory import RunDirectory
from orchestrator.tracking.tracker import RunTracker

root, uri, run_id = sys.argv[1:]
tracker = RunTracker(RunDirectory(root), uri, run_id, flush_every_s=0.05)
assert "mlflow" not in sys.modules
print(tracker._follower._process.pid, flush=True)
step = 0
while True:
    step += 1
    tracker.log(step, {"loss": 1 / step})
    print(step, flush=True)
    time.sleep(0.002)
"""


def test_a_worker_killed_in_mid_stream_loses_nothing(run_directory, sqlite_uri, run_id, stored_steps, wait_until):
    arguments = [run_directory.root, sqlite_uri, run_id]
    with subprocess.Popen([sys.executable, "-c", TRAIN, *arguments], stdout=subprocess.PIPE, text=True) as worker:
        companion = int(worker.stdout.readline())
        last_logged = 0
        while Cursor.load(run_directory).step < 50:
            last_logged = int(worker.stdout.readline())
        worker.kill()
        last_logged = max([last_logged, *(int(line) for line in worker.stdout if line.endswith("\n"))])
    wait_until(lambda: not os.path.exists(f"/proc/{companion}"))

    written = [line["step"] for line in read_json_lines(run_directory.metrics_file)]
    assert written[: last_logged + 1] == list(range(1, len(written) + 1))[: last_logged + 1]
    assert len(written) >= last_logged
    trim_metrics(run_directory, 40)
    write(run_directory, range(41, len(written) + 100), time_s=1e6, loss=0.5)
    assert replay(run_directory, sqlite_uri, run_id, 60) == 0
    assert stored_steps(sqlite_uri, run_id) == list(range(1, len(written) + 100))
