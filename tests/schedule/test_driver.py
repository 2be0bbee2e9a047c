"""How the driver ends a job whose attempt ended while somebody asked for a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import JOB_FAILED, STOPPED
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.values import Failure
from orchestrator.schedule.attempt import Ended
from orchestrator.schedule.driver import JobDriver
from orchestrator.schedule.place import OwnPlace

RECIPE = "name: tiny\nrecipe: {target: 'tiny.py:Digits'}\ntrain: {steps: 6}\nretries: {user_error: 3}\n"
SCRIPT = "name: tiny\nscript: {path: train.py}\nretries: {user_error: 3}\n"
FAILURE = Failure(cause="user_error", message="train.py on rank 1 ended with exit code 1", rank=1)
FINISHED = Ended("finished", "train.py finished on 2 workers")  # rank 0 did, a moment before rank 1 was stopped


@pytest.mark.parametrize(
    ("spec", "result", "exit_code", "phase"),
    [
        (SCRIPT, FAILURE, STOPPED, "stopped"),
        (SCRIPT, FINISHED, STOPPED, "stopped"),
        (RECIPE, FAILURE, JOB_FAILED, "failed"),
    ],
    ids=["a script fails", "a script finishes", "a recipe fails"],
)
def test_an_attempt_that_ends_under_a_stop(
    spec: str, result: Any, exit_code: int, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path)
    directory.resolved_spec.write_text(spec)
    driver = JobDriver(directory, embedded=True)

    def one_attempt(history: object) -> Any:
        directory.stop_file.touch()
        return result

    monkeypatch.setattr(driver, "_wait_for_place", lambda: None)
    monkeypatch.setattr(driver, "_one_attempt", one_attempt)
    assert driver._drive(None) == exit_code  # type: ignore[arg-type]  # the stand-in attempt has no history
    state = directory.read_state()
    assert (state["phase"], state["message"]) == (phase, result.message)
    assert not directory.stop_file.exists()


@pytest.mark.parametrize(
    ("asked", "reason", "message"),
    [
        (None, "stop_requested", "stopped at step 3, checkpoint written"),
        (("pruned", "others are ahead"), "pruned", "others are ahead; stopped at step 3, checkpoint written"),
    ],
)
def test_a_stop_may_have_a_reason(
    asked: tuple[str, str] | None, reason: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path)
    directory.resolved_spec.write_text(RECIPE)
    driver = JobDriver(directory, embedded=True)

    def one_attempt(history: object) -> Any:
        directory.stop_file.touch()
        if asked is not None:
            directory.ask_to_stop(*asked)
        directory.stop_file.touch()  # somebody else wants it too
        return Ended("stopped", "stopped at step 3, checkpoint written")

    monkeypatch.setattr(driver, "_wait_for_place", lambda: None)
    monkeypatch.setattr(driver, "_one_attempt", one_attempt)
    assert driver._drive(None) == STOPPED  # type: ignore[arg-type]  # as above
    state = directory.read_state()
    assert (state["phase"], state["reason"], state["message"]) == ("stopped", reason, message)
    assert directory.stop_request() == {}


def test_a_trial_of_a_private_sweep_has_no_queue(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.resolved_spec.write_text(RECIPE)
    assert isinstance(JobDriver(directory, embedded=False, has_room=True)._place, OwnPlace)
