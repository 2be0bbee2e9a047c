"""`run`, `submit` and `resume`: what they refuse, what they show, and how they end. The drivers train nothing."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec

NOBODY = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


@pytest.fixture
def job(storage: Path) -> RunDirectory:
    return RunDirectory(storage / "tiny")


# What is refused, before anything exists


def test_a_tracking_server_out_of_reach_is_5(cli, spec: Path, storage: Path) -> None:
    answer = cli("run", spec, "--storage", storage, "--set", f"tracking.uri={NOBODY}")
    assert (answer.code, answer.out) == (5, "")
    assert re.fullmatch(r"error: tracking\.uri: MLflow at http://127\.0\.0\.1:9 does not answer: .*\n", answer.err)
    assert not storage.exists()


def test_a_storage_that_cannot_be_written_is_2(cli, spec: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = cli("run", spec, "--storage", tmp_path / "file" / "sub")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: storage: {tmp_path}/file/sub cannot be written")


@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_name_in_use_is_2(command: str, cli, spec: Path, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(load_spec(spec), storage)
    monkeypatch.setattr("orchestrator.launch.ray_jobs.RayJobs.connect", lambda self: None)
    address = ["--address", NOBODY] if command == "submit" else []
    answer = cli(command, spec, "--storage", storage, *address)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: name: job tiny exists")
    assert [path.name for path in storage.iterdir()] == ["tiny"]


def test_a_cluster_out_of_reach_is_5(command, spec: Path, storage: Path) -> None:
    answer = command("submit", spec, "--storage", storage, "--address", NOBODY)
    assert (answer.code, answer.out) == (5, "")
    assert NOBODY in answer.err
    assert not storage.exists()


def test_submit_without_an_address_is_2(cli, spec: Path, storage: Path) -> None:
    answer = cli("submit", spec, "--storage", storage)
    assert answer.code == 2
    assert "--address: which cluster?" in answer.err


def test_resuming_a_job_that_succeeded_is_2(cli, spec: Path, storage: Path, job: RunDirectory) -> None:
    prepare(load_spec(spec), storage)
    job.update_state(phase="succeeded")
    answer = cli("resume", "tiny", "--storage", storage)
    assert answer.code == 2
    assert "nothing to resume" in answer.err


# How a run looks and ends


def test_a_run_tells_its_road_and_its_result(with_standin, spec: Path, storage: Path, job: RunDirectory) -> None:
    process = finish(with_standin("train", "run", spec, "--storage", storage))
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert lines[0] == f"job tiny in {job.root}"
    for line in (
        "running",
        "training starts: 6 steps on 2 workers",
        "checkpoint saved at step 3",
        "step 6  eval/accuracy 0.5",
        "result         succeeded",
        "steps          6",
        "samples        48",
        "loss           0.1667",
        "eval/accuracy  0.5",
        f"run directory  {job.root}",
        f"model          {job.model_file}",
    ):
        assert line in lines
    assert any(re.fullmatch(r"step \d/6  loss [\d.]+  lr 0.01  400 samples/s  0 s left", line) for line in lines)
    assert "\x1b" not in process.stdout


def test_a_failure_shows_its_cause_and_the_log_of_the_rank(
    with_standin, spec: Path, storage: Path, job: RunDirectory
) -> None:
    process = finish(with_standin("fail", "run", spec, "--storage", storage))
    assert process.returncode == 1
    assert "result         failed" in process.stdout
    assert f"the last lines of {job.rank_log(1, 1)}:\n    rank 1 says hello\n    ValueError" in process.stderr
    assert process.stderr.endswith("error: Tiny.loss raised ValueError at recipe.py:14 (return 1): no such thing\n")
    assert "Traceback" not in process.stderr


def test_a_driver_that_a_signal_ended_is_1(with_standin, spec: Path, storage: Path, job: RunDirectory) -> None:
    process = finish(with_standin("die", "run", spec, "--storage", storage))
    assert process.returncode == 1
    assert "SIGKILL" in process.stderr
    assert job.read_state()["reason"] == "driver_lost"


def test_new_name(with_standin, spec: Path, storage: Path) -> None:
    prepare(load_spec(spec), storage)
    process = finish(with_standin("train", "run", spec, "--storage", storage, "--new-name"))
    assert process.returncode == 0
    assert process.stdout.startswith(f"job tiny-2 in {storage}/tiny-2\n")


def interrupt_when(process: subprocess.Popen[str], line: str) -> None:
    """Send Ctrl-C once the command has printed a line."""
    assert process.stdout is not None
    while line not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_stops_with_a_checkpoint(
    number, with_standin, spec: Path, storage: Path, job: RunDirectory
) -> None:
    command = with_standin("wait", "run", spec, "--storage", storage)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "training starts" not in process.stdout.readline():
            pass
        process.send_signal(number)
        out = process.stdout.read()
    assert process.returncode == 3
    assert "stopping after this step, saving a checkpoint (Ctrl-C again to abort" in out
    assert "stopped at step 6, checkpoint written; `orchestrator resume tiny` continues." in out
    assert job.read_state()["phase"] == "stopped"


def test_a_second_interrupt_aborts(with_standin, spec: Path, storage: Path, job: RunDirectory) -> None:
    command = with_standin("stubborn", "run", spec, "--storage", storage)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        interrupt_when(process, "training starts")
        interrupt_when(process, "stopping after this step")
        assert process.stdout is not None
        out = process.stdout.read()
    assert process.returncode == 3
    assert "aborting" in out
    assert job.read_state()["reason"] == "aborted"


def test_an_early_interrupt_waits_for_the_driver(with_standin, spec: Path, storage: Path, job: RunDirectory) -> None:
    """A driver that is still starting would die of the signal and leave no word."""
    command = with_standin("slow", "run", spec, "--storage", storage)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        interrupt_when(process, "queued")
        interrupt_when(process, "training starts")
        assert process.stdout is not None
        process.stdout.read()
    assert process.returncode == 3
    assert job.read_state()["phase"] == "stopped"


def test_a_driver_that_does_not_listen_is_killed(with_standin, spec: Path, storage: Path, job: RunDirectory) -> None:
    command = with_standin("deaf", "run", spec, "--storage", storage)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        interrupt_when(process, "queued")
        interrupt_when(process, "stopping after this step")
        assert process.stdout is not None
        out = process.stdout.read()
    assert process.returncode == 3
    assert out.count("orchestrator resume") == 1
    assert (job.read_state()["phase"], job.read_state()["reason"]) == ("stopped", "driver_lost")


def test_a_reader_that_leaves_does_not_end_the_job(with_standin, spec: Path, storage: Path, job: RunDirectory) -> None:
    command = with_standin("train", "run", spec, "--storage", storage)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert job.read_state()["phase"] == "succeeded"


@pytest.mark.parametrize("again", ["resume", "run --resume"])
def test_resuming_goes_on_where_the_job_was(again, with_standin, spec: Path, storage: Path, job: RunDirectory) -> None:
    assert finish(with_standin("fail", "run", spec, "--storage", storage)).returncode == 1
    arguments = ["resume", "tiny"] if again == "resume" else ["run", spec, "--resume"]
    more = ["--set", "resources.workers=2"] if again == "resume" else []
    process = finish(with_standin("train", *arguments, *more, "--storage", storage))
    assert process.returncode == 0
    assert "resumed from step 2 on 2 workers" in process.stdout
    assert "training starts" not in process.stdout
    assert len([event for event in read_json_lines(job.events_file) if event["event"] == "queued"]) == 2
    assert job.read_state()["attempts"] == 2


def test_resuming_may_not_change_the_training(cli, with_standin, spec: Path, storage: Path) -> None:
    finish(with_standin("fail", "run", spec, "--storage", storage))
    answer = cli("resume", "tiny", "--storage", storage, "--set", "train.steps=7")
    assert answer.code == 2
    assert "train.steps" in answer.err


# Terminals


def on_terminal(arguments: list[str], **environment: str) -> str:
    """What a command draws on a terminal of 100 columns."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (30, 100))
    environ = {**os.environ, "TERM": "xterm-256color", **environment}
    with subprocess.Popen(arguments, stdin=slave, stdout=slave, stderr=slave, env=environ) as process:
        os.close(slave)
        drawn = b""
        while chunk := _read(master):
            drawn += chunk
    os.close(master)
    assert process.returncode == 0
    return drawn.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux: the last process that had the terminal is gone
        return b""


@pytest.fixture
def draw(with_standin, spec: Path, storage: Path) -> Callable[..., str]:
    return lambda **environment: on_terminal(with_standin("train", "run", spec, "--storage", storage), **environment)


def test_a_terminal_gets_a_bar_and_colors(draw) -> None:
    drawn = draw()
    assert "━" in drawn
    assert "step 6/6  loss 0.1667" in drawn
    assert "\x1b[32msucceeded\x1b[0m" in drawn
    assert "checkpoint saved at step 3" in drawn
    assert drawn.count("training starts") == 1


def test_no_color_is_respected(draw) -> None:
    drawn = draw(NO_COLOR="1")
    assert "━" in drawn
    assert not re.search(r"\x1b\[[\d;]*3\d", drawn)


def test_a_dumb_terminal_gets_plain_lines(draw) -> None:
    drawn = draw(TERM="dumb")
    assert "━" not in drawn
    assert "\x1b" not in drawn
    assert re.search(r"step \d/6  loss", drawn)


def test_lists_are_colored_on_a_terminal_only(cli, draw, storage: Path) -> None:
    draw()
    orchestrator = str(Path(sys.executable).with_name("orchestrator"))
    colored = on_terminal([orchestrator, "list", "--storage", str(storage)])
    assert "\x1b[32msucceeded\x1b[0m" in colored
    assert "\x1b" not in on_terminal([orchestrator, "list", "--storage", str(storage)], NO_COLOR="1")
    assert "\x1b" not in cli("list", "--storage", storage).out
    json.loads(on_terminal([orchestrator, "list", "--storage", str(storage), "--json"]))
