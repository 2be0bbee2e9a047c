"""`orchestrator watch`: frames of jobs as their run directories tell of them, on a terminal and without one."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import SPEC, Command

from orchestrator.cli import frames, watching
from orchestrator.cli.frames import WatchedJob, bar, frame, sparkline
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec

SWEEP = SPEC + "resources: {workers: 2}\nexchange: coded\nsweep: {optimizer.lr: [0.1, 0.2]}\n"


@pytest.fixture
def run(spec: Path, storage: Path) -> RunDirectory:
    return prepare(load_spec(spec), storage).run_directory


def start(run: RunDirectory, **fields: Any) -> None:
    """What a job that trains tells; nobody is asked whether its driver lives."""
    run.update_state(phase="running", attempts=1, **fields)
    lengths = {"step": 0, "workers": 2, "total_steps": 100, "total_samples": 800}
    for directory in run.trials or [run]:
        directory.event("started", lengths)


def log(run: RunDirectory, step: int, seconds: float = 0.5) -> None:
    line = {"step": step, "samples": 8 * step, "loss": 1.0, "samples_per_s": 8 / seconds, "step_s": seconds}
    with run.metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


@pytest.fixture(autouse=True)
def drivers_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """These jobs have no driver, and would be declared lost."""
    monkeypatch.setattr("orchestrator.launch.control.reconcile", lambda run: run.read_state())


def test_a_frame_tells_phase_progress_time_left_and_pace(run: RunDirectory) -> None:
    start(run)
    for step, seconds in enumerate([0.1, 0.2, 0.4, 0.8], start=1):
        log(run, step, seconds)
    row = WatchedJob(run).look()
    header, line = frame([row], has_blocks=True)
    assert re.split(r"  +", header) == ["JOB", "PHASE", "PROGRESS", "LEFT", "STEP TIME"]
    # 768 samples left at the median of 80, 40, 20 and 10 samples a second.
    assert re.split(r"  +", line) == [
        "tiny",
        "running",
        "░" * 16,
        "4%",
        "4/100",
        "26 s",
        "0.8 s",
        "▂▃▅█",
    ]


def test_a_job_without_steps_tells_what_it_waits_for(run: RunDirectory) -> None:
    run.update_state(phase="placing", message="2 workers fit, 4 are asked for\nmore")
    (_, line) = frame([WatchedJob(run).look()], has_blocks=False)
    assert re.split(r"  +", line) == ["tiny", "placing", "-" * 16, "0%", "2 workers fit, 4 are asked for"]


def test_a_sweep_shows_its_slowest_trial_that_goes_on(spec: Path, storage: Path) -> None:
    spec.write_text(SWEEP)
    run = prepare(load_spec(spec), storage).run_directory
    start(run)
    log(run.trial(0), 50, 0.5)
    log(run.trial(1), 20, 0.3)
    job = WatchedJob(run)
    (_, line) = frame([job.look()], has_blocks=False)
    assert "20/100, slowest of 2 trials" in line
    run.trial(1).event("diverged", {"message": "loss is NaN"})
    (_, line) = frame([job.look()], has_blocks=False)
    assert "50/100, slowest of 2 trials" in line


def test_what_is_appended_is_seen_at_the_next_look(run: RunDirectory) -> None:
    job = WatchedJob(run)
    assert job.look().progress is None
    start(run)
    log(run, 7)
    progress = job.look().progress
    assert progress is not None
    assert (progress.metrics["step"], progress.length.total_steps) == (7, 100)
    assert not job.has_ended
    run.update_state(phase="stopped")
    assert job.look().phase == "stopped"
    assert job.has_ended


@pytest.mark.parametrize(
    ("seconds", "line"),
    [([], ""), ([0.0, 0.0], "▁▁"), ([1.0], "█"), ([0.0, 0.49, 0.51, 1.0], "▁▄▅█"), ([5.0, 5.0], "██")],
)
def test_sparkline(seconds: list[float], line: str) -> None:
    assert sparkline(seconds, has_blocks=True) == line


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "-" * 16 + "   0%"),
        (0.5, "#" * 8 + "-" * 8 + "  50%"),
        (1.0, "#" * 16 + " 100%"),
        (1.2, "#" * 16 + " 120%"),
    ],
)
def test_bar(share: float, text: str) -> None:
    assert bar(share, has_blocks=False) == text


def test_once_prints_one_frame(cli: Command, storage: Path, run: RunDirectory) -> None:
    start(run)
    log(run, 30)
    answer = cli("watch", "--once", "--storage", storage)
    assert answer.code == 0
    first, header, line = answer.out.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  1 job: 1 running", first)
    assert header.startswith("JOB")
    assert line.startswith("tiny")
    assert "30/100" in line


def test_ended_jobs_are_shown_only_by_name(cli: Command, storage: Path, run: RunDirectory) -> None:
    run.update_state(phase="succeeded", message="finished 6 steps", finished_at=time.time())
    answer = cli("watch", "--storage", storage)
    assert (answer.code, answer.out) == (0, "")
    assert answer.err == "No job is going on; `orchestrator list` shows all.\n"
    answer = cli("watch", "tiny", "--storage", storage)
    assert answer.code == 0
    assert "finished 6 steps" in answer.out


def test_an_unknown_job_is_refused(cli: Command, storage: Path, run: RunDirectory) -> None:
    answer = cli("watch", "tiny", "tinny", "--storage", storage)
    assert (answer.code, answer.out) == (2, "")
    assert "no tinny in" in answer.err
    assert "did you mean tiny?" in answer.err


def test_without_a_terminal_frames_follow_each_other_until_the_end(
    cli: Command, storage: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(run)
    steps = iter([10, 20])

    def sleep(seconds: float) -> None:
        assert seconds == watching.LINES_EVERY_S
        step = next(steps, None)
        if step is None:
            run.update_state(phase="succeeded")
        else:
            log(run, step)

    monkeypatch.setattr(watching.time, "sleep", sleep)
    monkeypatch.setattr(frames, "RECONCILE_S", 0.0)
    out = cli("watch", "tiny", "--storage", storage).out
    assert "\x1b" not in out
    shown = [line for line in out.splitlines() if line.startswith("tiny")]
    assert len(shown) == 4
    assert ["10/100" in shown[1], "20/100" in shown[2], "succeeded" in shown[3]] == [True] * 3


def test_a_terminal_is_redrawn_and_left_clean(storage: Path, run: RunDirectory) -> None:
    start(run)
    log(run, 40)
    script = "import sys, orchestrator.launch.control as c; c.reconcile = lambda run: run.read_state()\n"
    script += "from orchestrator.cli.main import main; sys.exit(main(sys.argv[1:]))"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script, "watch", "--storage", str(storage)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
        start_new_session=True,
    )
    os.close(theirs)
    out = read_until(ours, "40/100")
    log(run, 41)
    out += read_until(ours, "41/100")
    process.send_signal(signal.SIGINT)
    out += read_until(ours, None)
    assert process.wait() == 130
    assert "\x1b[?25l" in out
    assert out.rfind("\x1b[?25h") > out.rfind("\x1b[?25l"), "the cursor is back"
    assert "Traceback" not in out


def read_until(terminal: int, text: str | None) -> str:
    """What a terminal shows until some text has come; None reads to the end."""
    found = b""
    while text is None or text.encode() not in found:
        assert select.select([terminal], [], [], 60)[0], f"nothing new, and no {text} in {found.decode()}"
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other side has gone
            piece = b""
        if not piece:
            assert text is None, found.decode()
            break
        found += piece
    return found.decode()
