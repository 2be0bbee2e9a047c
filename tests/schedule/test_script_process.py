"""A rank's script as a real process: its log, its end, and that nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.schedule.script_process import ScriptEnd, last_words, run_script

NEVER: Callable[[], bool] = lambda: False  # noqa: E731
WITH_CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open("pids.tmp", "w") as stream:
    stream.write(f"{os.getpid()} {child.pid}")
os.replace("pids.tmp", "pids")
"""
ON_SIGTERM = """
import pathlib, signal, sys, time
def end(*_):
    print("saved", flush=True)
    %s
signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").touch()
while True:
    time.sleep(0.01)
"""
WORKER = """
import os, sys
from pathlib import Path
from orchestrator.schedule.script_process import run_script
folder = Path(sys.argv[1])
command = [sys.executable, "train.py"]
run_script(command, folder=folder, env=os.environ, log=folder / "log", stop_requested=lambda: False)
"""


def run(folder: Path, source: str, stop_requested: Callable[[], bool] = NEVER, grace_s: float = 60.0) -> ScriptEnd:
    (folder / "train.py").write_text(source, encoding="utf-8")
    return run_script(
        [sys.executable, "train.py", "--lr", "0.1"],
        folder=folder,
        env={**os.environ, "RANK": "3"},
        log=folder / "log",
        stop_requested=stop_requested,
        grace_s=grace_s,
    )


def pids_of(folder: Path) -> list[int]:
    while not (folder / "pids").exists():
        time.sleep(0.02)
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def wait_until_gone(pids: list[int]) -> None:
    """The test's own timeout is the limit."""
    for pid in pids:
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)


def test_everything_that_it_prints_is_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    source = "import os, sys; print(sys.argv, os.environ['RANK'], flush=True); os.system('echo C >&2')"
    assert run(tmp_path, f"{source}; print(sys.stdin.read())") == ScriptEnd(0, stopped=False)
    assert (tmp_path / "log").read_text().split("\n")[:3] == ["before", "['train.py', '--lr', '0.1'] 3", "C"]


@pytest.mark.parametrize(
    ("source", "exit_code", "text"),
    [
        ("raise ValueError('boom')", 1, "ended with exit code 1"),
        ("import sys; sys.exit(7)", 7, "ended with exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, "was ended by SIGSEGV"),
    ],
)
def test_how_it_ended(source: str, exit_code: int, text: str, tmp_path: Path) -> None:
    end = run(tmp_path, source)
    assert end == ScriptEnd(exit_code, stopped=False)
    assert str(end) == text


def test_a_stop_lets_it_save_first(tmp_path: Path) -> None:
    end = run(tmp_path, ON_SIGTERM % "sys.exit(0)", stop_requested=(tmp_path / "ready").exists)
    assert end == ScriptEnd(0, stopped=True)
    assert (tmp_path / "log").read_text() == "saved\n"


def test_a_script_that_does_not_care_is_ended_by_sigterm(tmp_path: Path) -> None:
    source = "import pathlib, time; pathlib.Path('ready').touch(); time.sleep(600)"
    end = run(tmp_path, source, stop_requested=(tmp_path / "ready").exists)
    assert end == ScriptEnd(-signal.SIGTERM, stopped=True)


def test_a_deaf_script_is_killed_after_its_grace(tmp_path: Path) -> None:
    end = run(tmp_path, ON_SIGTERM % "pass", stop_requested=(tmp_path / "ready").exists, grace_s=0.5)
    assert end == ScriptEnd(-signal.SIGKILL, stopped=True, killed=True)
    assert str(end) == "did not end in time after SIGTERM and was killed"


def test_a_failure_beside_a_stop_counts_as_stopped(tmp_path: Path) -> None:
    """The neighbor was told a moment before, and this script lost it."""
    end = run(
        tmp_path, "import pathlib; pathlib.Path('stop').touch(); exit(1)", stop_requested=(tmp_path / "stop").exists
    )
    assert end.stopped


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    assert run(tmp_path, WITH_CHILD).exit_code == 0
    wait_until_gone(pids_of(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_outlive_the_worker(number: int, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(WITH_CHILD + "time.sleep(600)", encoding="utf-8")
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)])
    try:
        pids = pids_of(tmp_path)
        assert all(psutil.pid_exists(pid) for pid in pids)
    finally:
        worker.send_signal(number)
        worker.wait()
    wait_until_gone(pids)


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    before = psutil.Process().children()
    with pytest.raises(FileNotFoundError):
        run_script([str(tmp_path / "nothing")], folder=tmp_path, env={}, log=tmp_path / "log", stop_requested=NEVER)
    assert psutil.Process().children() == before


TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n    x()\n    ~^^\n'


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        (f"{TRACEBACK}ValueError: boom\nmore of the message\n", "ValueError: boom"),
        (f"{TRACEBACK}ValueError: boom\n[W socket.cpp:1] late warning\n", "ValueError: boom"),
        (f"{TRACEBACK}KeyError: 1\n\nDuring handling ...\n\n{TRACEBACK}ValueError: boom\n", "ValueError: boom"),
        ("".join(f"[rank1]: {line}\n" for line in f"{TRACEBACK}ValueError: boom".splitlines()), "ValueError: boom"),
        (TRACEBACK, "~^^"),  # cut off by a kill
        ("x" * 1000, "x" * 300),
        ("\n" * 100_000 + "end", "end"),
    ],
)
def test_last_words(log: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    assert last_words(tmp_path / "log") == words
