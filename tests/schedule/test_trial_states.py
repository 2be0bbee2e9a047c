"""What the driver writes of a sweep's trials, and of the job from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import JOB_FAILED, STOPPED, SUCCESS
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.values import Failure
from orchestrator.launch.trials import prepare_trials
from orchestrator.schedule.attempt import Ended
from orchestrator.schedule.driver import JobDriver
from orchestrator.schedule.trial_states import TrialStates
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import dump_resolved


@pytest.fixture
def job(tmp_path: Path) -> RunDirectory:
    """A sweep of two trials, as launch prepares it."""
    directory = RunDirectory(tmp_path)
    spec = JobSpec.model_validate(
        {
            "name": "tiny",
            "recipe": {"target": "tiny.py:Digits"},
            "train": {"steps": 6},
            "exchange": {"name": "coded"},
            "resources": {"workers": 2},
            "sweep": {"train.steps": [3, 6]},
        }
    )
    directory.resolved_spec.write_text(dump_resolved(spec), encoding="utf-8")
    directory.update_state(phase="queued", attempts=0)
    prepare_trials(directory, spec)
    return directory


def log(trial: RunDirectory, step: int) -> None:
    with trial.metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": step, "loss": 1.0}) + "\n")


def told(job: RunDirectory, *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(trial.read_state()[field] for field in fields) for trial in job.trials]


def test_trials_have_phase_and_attempts_of_their_job_and_a_step_of_their_own(job: RunDirectory) -> None:
    states = TrialStates(job.trials)
    log(job.trial(1), 4)
    states.follow("running", 2)
    assert told(job, "phase", "attempts", "step", "finished_at") == [("running", 2, 0, None), ("running", 2, 4, None)]


def test_a_trial_with_its_final_weights_has_succeeded_whatever_becomes_of_the_job(job: RunDirectory) -> None:
    states = TrialStates(job.trials)
    job.trial(0).model_file.touch()
    states.follow("running", 1)
    assert told(job, "phase") == [("succeeded",), ("running",)]
    finished_at = job.trial(0).read_state()["finished_at"]
    states.follow("failed", 1)
    TrialStates(job.trials).follow("stopped", 2)
    assert told(job, "phase") == [("succeeded",), ("stopped",)]
    assert job.trial(0).read_state()["finished_at"] == finished_at
    assert job.trial(1).read_state()["finished_at"] > finished_at


def test_a_trial_that_diverged_has_failed_while_others_go_on(job: RunDirectory) -> None:
    states = TrialStates(job.trials)
    log(job.trial(0), 2)
    log(job.trial(1), 5)
    note = {"attempt": 1, "reason": "diverged", "message": "The loss is nan at step 2."}
    job.trial(0).failure_file.write_text(json.dumps(note), encoding="utf-8")
    states.follow("running", 1)
    assert told(job, "phase", "reason", "message") == [
        ("failed", "diverged", "The loss is nan at step 2."),
        ("running", None, None),
    ]
    assert job.trial(0).read_state()["finished_at"] is not None
    assert states.last_step(1) == 5  # of those that go on
    # The next attempt takes its steps again.
    states.follow("running", 2)
    assert told(job, "phase", "reason", "message", "finished_at") == [("running", None, None, None)] * 2
    assert states.last_step(2) == 2


def test_what_stays_the_same_is_not_written_again(job: RunDirectory) -> None:
    states = TrialStates(job.trials)
    states.follow("running", 1)
    log(job.trial(1), 1)
    before = told(job, "updated_at")
    states.follow("running", 1)
    after = told(job, "updated_at")
    assert after[0] == before[0]
    assert after[1] > before[1]


@pytest.mark.parametrize(
    ("result", "exit_code", "phases"),
    [
        (Ended("finished", "finished 3 steps"), SUCCESS, ["succeeded", "succeeded"]),
        (Ended("stopped", "stopped at step 3"), STOPPED, ["succeeded", "stopped"]),
        (Failure(cause="user_error", message="no such thing"), JOB_FAILED, ["succeeded", "failed"]),
    ],
    ids=["finished", "stopped", "failed"],
)
def test_a_job_ends_with_the_step_of_its_slowest_trial(
    result: Any, exit_code: int, phases: list[str], job: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = JobDriver(job, embedded=True)

    def one_attempt(history: object) -> Any:
        log(job.trial(0), 3)
        log(job.trial(1), 5)
        job.trial(0).model_file.touch()
        return result

    monkeypatch.setattr(driver, "_wait_for_place", lambda: None)
    monkeypatch.setattr(driver, "_one_attempt", one_attempt)
    assert driver._drive(None) == exit_code  # type: ignore[arg-type]  # the stand-in attempt has no history
    assert job.read_state()["step"] == 3
    assert [phase for (phase,) in told(job, "phase")] == phases


def test_ranks_find_the_attempt_in_their_trial_before_they_start(
    job: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    class Attempt:
        has_workers = True

        def start(self) -> None:
            seen.extend(told(job, "attempts"))

        def wait(self, timeout_s: float) -> Ended:
            return Ended("finished", "")

    class History:
        uri, run_id = "sqlite:///mlflow.db", "abc"

    monkeypatch.setattr("orchestrator.schedule.driver._attempt", lambda *_: Attempt())
    job.update_state(attempts=4)
    JobDriver(job, embedded=True)._one_attempt(History())  # type: ignore[arg-type]  # what an attempt needs of it
    assert seen == [(5,), (5,)]
    assert job.read_state()["attempts"] == 5
