"""Which cause a failure counts under: classes of the spec over the notes and logs of an attempt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.values import Failure
from orchestrator.schedule.retry_classes import TAIL_BYTES, classified
from orchestrator.schedule.script_process import ScriptEnd
from orchestrator.spec.retry_classes import RetryClass

LOST = Failure(cause="worker_lost", message="rank 1 disappeared", rank=1)
ASSERTION = {"cause": "user_error", "pattern": "CUDA error: device-side assert"}


def classes(*fields: dict[str, Any]) -> list[RetryClass]:
    return [RetryClass.model_validate(one) for one in fields]


def leave(logs: Path, process: str, at_s: int, **note: Any) -> None:
    """A note as a process that failed leaves it."""
    path = logs / f"failure_{process}.json"
    path.write_text(json.dumps(note))
    os.utime(path, (at_s, at_s))


def told(failure: Failure) -> tuple[str, int | None, str]:
    return failure.cause, failure.rank, failure.told_by


def test_without_a_class_that_fits_the_failure_stays_as_it_is(tmp_path: Path) -> None:
    assert classified(LOST, [], tmp_path) is LOST
    assert classified(LOST, classes(ASSERTION), tmp_path) is LOST


@pytest.mark.parametrize("where", ["message", "details", "log"])
def test_a_pattern_sees_message_traceback_and_log(where: str, tmp_path: Path) -> None:
    text = "RuntimeError: CUDA error: device-side assert triggered"
    words = {"message": "m", "details": ""} | ({} if where == "log" else {where: text})
    failure = Failure(cause="worker_crash", rank=0, **words)
    if where == "log":
        (tmp_path / "rank_0.log").write_text(f"step 3\n{text}\nlast words\n")
    assert told(classified(failure, classes(ASSERTION), tmp_path)) == ("user_error", 0, "retries.classes.0")


def test_lines_of_the_log_have_ends(tmp_path: Path) -> None:
    (tmp_path / "rank_1.log").write_text("a\nout of memory\nb\n")
    fits = classes({"cause": "user_error", "pattern": "^out of memory$"})
    assert classified(LOST, fits, tmp_path).cause == "user_error"
    assert classified(LOST, classes({"cause": "user_error", "pattern": "^memory"}), tmp_path) is LOST


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "rank_1.log"
    log.write_text("CUDA error: device-side assert\n" + "x" * TAIL_BYTES)
    assert classified(LOST, classes(ASSERTION), tmp_path) is LOST
    log.write_text("x" * TAIL_BYTES + "CUDA error: device-side assert\n")
    assert classified(LOST, classes(ASSERTION), tmp_path).cause == "user_error"


def test_a_log_that_is_not_text_is_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "rank_1.log").write_bytes(b"\xff\xfe CUDA error: device-side assert \x80")
    assert classified(LOST, classes(ASSERTION), tmp_path).cause == "user_error"


@pytest.mark.parametrize(
    ("exit_code", "expected"),
    [
        (75, ("infrastructure", "retries.classes.0")),
        (137, ("worker_lost", "retries.classes.1")),
        (1, ("user_error", "")),
    ],
)
def test_exit_codes(exit_code: int, expected: tuple[str, str], tmp_path: Path) -> None:
    failure = Failure(cause="user_error", message="m", rank=0, exit_code=exit_code)
    by_code = classes(
        {"cause": "infrastructure", "exit_codes": [75]}, {"cause": "worker_lost", "exit_codes": [137, 139]}
    )
    found = classified(failure, by_code, tmp_path)
    assert (found.cause, found.told_by) == expected


def test_both_conditions_must_hold(tmp_path: Path) -> None:
    both = classes({"cause": "worker_lost", "exit_codes": [1], "pattern": "Connection reset"})
    failure = Failure(cause="user_error", message="m", rank=0, exit_code=1)
    assert classified(failure, both, tmp_path) is failure
    (tmp_path / "rank_0.log").write_text("Connection reset by peer\n")
    assert classified(failure, both, tmp_path).cause == "worker_lost"


def test_the_first_class_decides_not_the_first_process(tmp_path: Path) -> None:
    """Rank 0 only lost its neighbor; what rank 1 says stands in an earlier class."""
    leave(tmp_path, "rank_0", 1, cause="worker_crash", message="Connection closed by peer")
    leave(tmp_path, "rank_1", 2, cause="worker_crash", message="CUDA error: device-side assert")
    first = Failure(cause="worker_crash", message="Connection closed by peer", rank=0)
    closed = {"cause": "worker_lost", "pattern": "Connection closed"}
    assert told(classified(first, classes(ASSERTION, closed), tmp_path)) == ("user_error", 1, "retries.classes.0")
    assert told(classified(first, classes(closed, ASSERTION), tmp_path)) == ("worker_lost", 0, "retries.classes.0")


def test_others_are_asked_in_the_order_in_which_they_failed(tmp_path: Path) -> None:
    for process, at_s in (("rank_2", 5), ("rank_3", 4), ("shard_0", 3)):
        leave(tmp_path, process, at_s, cause="worker_crash", message=f"boom {process}")
    found = classified(LOST, classes({"cause": "user_error", "pattern": "boom rank"}), tmp_path)
    assert told(found) == ("user_error", 3, "retries.classes.0")
    found = classified(LOST, classes({"cause": "user_error", "pattern": "boom"}), tmp_path)
    assert told(found) == ("user_error", None, "retries.classes.0")


def test_a_diverged_training_stays_diverged(tmp_path: Path) -> None:
    everything = classes({"cause": "worker_lost", "pattern": "."})
    diverged = Failure(cause="diverged", message="the loss is nan", rank=0)
    assert classified(diverged, everything, tmp_path) is diverged
    leave(tmp_path, "rank_0", 1, cause="diverged", message="the loss is nan")
    nothing_else = classes({"cause": "worker_lost", "pattern": "nan"})
    assert classified(LOST, nothing_else, tmp_path) is LOST


def test_the_exit_code_of_a_signal_is_that_of_a_shell() -> None:
    assert ScriptEnd(-9, stopped=False).shell_code == 137
    assert ScriptEnd(3, stopped=False).shell_code == 3
