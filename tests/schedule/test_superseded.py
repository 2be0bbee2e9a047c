"""Never two drivers for one job: one whose job was taken over writes no more, a submission that comes late nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.environment import SUBMISSION_VARIABLE
from orchestrator.core.errors import JOB_FAILED
from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule import driver as driver_module
from orchestrator.schedule import main as module
from orchestrator.schedule.driver import JobDriver
from orchestrator.schedule.main import is_current, main

SPEC = "name: tiny\nrecipe: {target: 'tiny.py:Digits'}\ntrain: {steps: 6}\n"


class NoHistory:
    """An MLflow run that must not be touched after the job has changed hands."""

    was_closed = False

    def wait_until_open(self) -> None:
        pass

    def close(self) -> None:
        self.was_closed = True


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDirectory]:
    directory = RunDirectory(tmp_path / "tiny")
    directory.code.mkdir(parents=True)
    directory.resolved_spec.write_text(SPEC)
    directory.update_state(phase="queued", created_at=1.0, backend={"kind": "ray_jobs", "submission_id": "tiny-a2"})
    monkeypatch.setattr(driver_module, "connect", lambda spec, embedded: {})
    before = signal.getsignal(signal.SIGINT)  # a driver takes it for itself
    yield directory
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("takes_over", [{"driver": None, "phase": "queued"}, {"driver": {"host": "b", "pid": 1}}])
def test_a_driver_whose_job_was_taken_over_ends_and_leaves_its_record_alone(
    takes_over: dict[str, Any], directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    driver = JobDriver(directory, embedded=True)
    left: list[bytes] = []

    def one_attempt(history: object) -> Any:
        assert directory.read_state()["driver"]["pid"] > 1
        directory.update_state(**takes_over)
        left.append(directory.state_file.read_bytes())
        driver._update_state(phase="running", step=5)

    monkeypatch.setattr(driver, "_wait_for_place", lambda: None)
    monkeypatch.setattr(driver, "_one_attempt", one_attempt)
    history = NoHistory()
    assert driver.run(history) == JOB_FAILED  # type: ignore[arg-type]  # what a driver needs of it
    assert directory.state_file.read_bytes() == left[0]
    assert not history.was_closed
    assert "tiny has another driver now; this one ends." in capsys.readouterr().err


def test_a_submission_is_the_current_one_or_late(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CURRENT_WITHIN_S", 0.0)
    assert is_current(directory, None)
    assert is_current(directory, "tiny-a2")
    assert not is_current(directory, "tiny-a1")


def test_a_late_submission_does_nothing(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CURRENT_WITHIN_S", 0.0)
    monkeypatch.setenv(SUBMISSION_VARIABLE, "tiny-a1")
    monkeypatch.chdir(directory.root)
    before = directory.state_file.read_bytes()
    assert main([str(directory.root)]) == JOB_FAILED
    assert directory.state_file.read_bytes() == before
